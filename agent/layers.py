"""Owns where settings come from: flags over environment over a file over defaults."""

from __future__ import annotations

import difflib
import os
import pathlib
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from agent import config

ENV_PREFIX = "MLPM_"
ENV_FILE = "MLPM_CONFIG"
"""Names the configuration file, where no flag does."""
NOT_SETTINGS = (ENV_FILE, "MLPM_SECRET_")


class UnknownKey(config.ConfigError):
    """There is no such setting."""

    def __init__(self, key: str, source: str, known: Iterable[str]) -> None:
        near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
        self.suggestion = near[0] if near else None
        hint = f"; did you mean {self.suggestion!r}?" if near else "; `mlpm config` lists them all"
        super().__init__(f"unknown setting {key!r} from {source}{hint}")
        self.key = key
        self.source = source


class FileUnreadable(config.ConfigError):
    """The configuration file cannot be read."""

    def __init__(self, file: pathlib.Path, reason: str) -> None:
        super().__init__(f"the configuration file {file} cannot be read: {reason}")
        self.file = file


class MalformedOverride(config.ConfigError):
    """A flag is not of the form `key=value`."""

    def __init__(self, text: str) -> None:
        super().__init__(f"--set takes key=value, as nats.url=nats://host:4222; got {text!r}")
        self.text = text


class Value(msgspec.Struct, frozen=True):
    """One effective setting and where it comes from."""

    value: Any
    source: str = "default"


class Loaded(msgspec.Struct, frozen=True):
    """The settings, and the origin of each by its dotted key."""

    settings: config.Settings
    values: dict[str, Value]

    def shown(self) -> dict[str, Value]:
        """Give every value as it may be printed: passwords inside URLs are hidden."""
        return {k: Value(config.redact(v.value), v.source) for k, v in self.values.items()}


def load(
    file: pathlib.Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Iterable[str] = (),
) -> config.Settings:
    """Make the settings from flags over environment over file over defaults.

    `overrides` are `key=value` texts. Raises config.ConfigError.
    """
    return resolve(file, env, overrides).settings


def resolve(
    file: pathlib.Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Iterable[str] = (),
) -> Loaded:
    """Do as `load` does and say where each value comes from."""
    environment = os.environ if env is None else env
    known = dict(_leaves(config.Settings))
    values = {key: Value(_default(key)) for key in known}
    for key, raw, source in _layers(file, environment, list(overrides), known):
        if key not in known:
            raise UnknownKey(key, source, known)
        values[key] = Value(_convert(key, raw, known[key], source), source)
    return Loaded(_assemble(values), values)


def _layers(
    file: pathlib.Path | None,
    env: Mapping[str, str],
    overrides: list[str],
    known: Mapping[str, Any],
) -> Iterator[tuple[str, Any, str]]:
    path = _find(file, env)
    if path is not None:
        yield from ((key, raw, str(path)) for key, raw in _flatten(_read(path), known))
    for name in sorted(env):
        if name.startswith(ENV_PREFIX) and not name.startswith(NOT_SETTINGS):
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            yield key, env[name], f"environment variable {name}"
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals:
            raise MalformedOverride(text)
        yield key.strip(), raw, f"flag --set {key}"


def _find(file: pathlib.Path | None, env: Mapping[str, str]) -> pathlib.Path | None:
    if file is not None:
        return file
    if env.get(ENV_FILE):
        return pathlib.Path(env[ENV_FILE])
    default = pathlib.Path(config.DEFAULT_FILE)
    return default if default.is_file() else None


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        data = _parse_yaml(text) if path.suffix in {".yaml", ".yml"} else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise FileUnreadable(path, str(error)) from error
    if not isinstance(data, dict):
        raise FileUnreadable(path, "it is not a mapping of settings")
    return data


def _parse_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _flatten(
    data: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" not in known:
            yield from _flatten(value, known, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _leaves(struct: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(struct, include_extras=True)
    for name in struct.__struct_fields__:
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from _leaves(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def _default(key: str) -> Any:
    found: Any = config.Settings()
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _convert(key: str, raw: Any, hint: Any, source: str) -> Any:
    from_text = isinstance(raw, str) and not source.endswith((".toml", ".yaml", ".yml"))
    value = raw
    if from_text and typing.get_origin(hint) is tuple:
        value = [part.strip() for part in raw.split(",") if part.strip()]
    try:
        if from_text and typing.get_origin(hint) is dict:
            value = msgspec.json.decode(raw)
        return msgspec.convert(value, hint, strict=not from_text)
    except msgspec.DecodeError as error:
        reason = str(error).removesuffix(" - at `$`")
        raise config.BadValue(key, config.redact(raw), source, reason) from error


def _assemble(values: Mapping[str, Value]) -> config.Settings:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value.value
    return msgspec.convert(tree, config.Settings)


def environment(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Write settings as environment variables, for another process that has the same."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}".upper()
        if isinstance(value, msgspec.Struct):
            found |= environment(msgspec.structs.asdict(value), f"{key}__")
        elif value is not None:
            found[f"{ENV_PREFIX}{key}"] = str(value)
    return found
