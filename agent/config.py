"""Owns the configuration: one frozen struct, passed down; nothing else reads the environment."""

from __future__ import annotations

import difflib
import os
import pathlib
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from stages import kit

ENV_PREFIX = "MLPM_"
ENV_FILE = "MLPM_CONFIG"
NOT_SETTINGS = (ENV_FILE, "MLPM_SECRET_")
"""Names the configuration file, where no flag does."""
DEFAULT_FILE = "mlpm.toml"


class ConfigError(Exception):
    """The configuration cannot be used."""


class UnknownKey(ConfigError):
    """There is no such setting."""

    def __init__(self, key: str, source: str, known: Iterable[str]) -> None:
        near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
        self.suggestion = near[0] if near else None
        hint = f"; did you mean {self.suggestion!r}?" if near else "; `mlpm config` lists them all"
        super().__init__(f"unknown setting {key!r} from {source}{hint}")
        self.key = key
        self.source = source


class BadValue(ConfigError):
    """A setting has a value that it cannot have."""

    def __init__(self, key: str, value: Any, source: str, reason: str) -> None:
        super().__init__(f"setting {key!r} from {source} cannot be {value!r}: {reason}")
        self.key = key
        self.value = value
        self.source = source


class FileUnreadable(ConfigError):
    """The configuration file cannot be read."""

    def __init__(self, file: pathlib.Path, reason: str) -> None:
        super().__init__(f"the configuration file {file} cannot be read: {reason}")
        self.file = file


class MalformedOverride(ConfigError):
    """A flag is not of the form `key=value`."""

    def __init__(self, text: str) -> None:
        super().__init__(f"--set takes key=value, as nats.url=nats://host:4222; got {text!r}")
        self.text = text


class Nats(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bus. Without a URL the agent starts its own server."""

    url: str = ""
    credentials: str | None = None
    """Path of a NATS credentials file."""
    nkey_seed: str | None = None
    """Path of a file with an nkey seed."""
    tls_ca: str | None = None
    """Path of the certificate authority's certificate."""
    prefix: str = "codeguardian"
    """First token of every subject."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    """Of the streams, in a cluster: 3 survive the loss of one server."""
    port: int = 0
    """Of the embedded server; 0 takes a free one."""


class Ray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster. Without an address the agent starts a local one."""

    address: str = ""
    cpus: int | None = None
    """Of the local cluster; all of the machine's where not given."""
    workers: int | None = None
    """Warm workers; one per CPU of the cluster where not given."""
    object_store_bytes: int | None = None


class Artifacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The artifact store: an fsspec URI, or a folder under the data folder."""

    uri: str = ""


class Tracking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MLflow: a server's URL, or SQLite under the data folder."""

    uri: str = ""


class Specialist(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ML-Training-Specialist: our reference one as a child process, or somebody else's."""

    embedded: bool = True
    accept_timeout_s: float = 2.0
    heartbeat_s: float = 5.0
    missed_heartbeats: int = 3


class Runs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many runs this agent holds, and how soon another may take them over."""

    max_active: Annotated[int, msgspec.Meta(ge=1)] = 16
    lease_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """The ack wait of a run's ticket: a dead agent's runs move on after this long."""
    max_stages: int = 10_000
    max_fan_out: int = 10_000
    max_payload_bytes: int = 1 << 20


class Logs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the agent writes to standard error."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stages may reach."""

    data_roots: tuple[str, ...] = (".",)
    """Folders that `file:` URIs may reach; relative URIs start at the first."""
    allowed_schemes: tuple[str, ...] = kit.DEFAULT_SERVICES.allowed_schemes
    allowed_hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = kit.DEFAULT_SERVICES.secrets
    """Environment variables and files, as patterns, that a request may refer to as a secret."""
    max_input_bytes: int = kit.DEFAULT_SERVICES.max_input_bytes


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be configured."""

    data_dir: str = ".mlpm"
    """Where everything lies that the agent keeps itself."""
    agent_id: str = ""
    """Subject-safe; made from host and process where not given."""
    nats: Nats = Nats()
    ray: Ray = Ray()
    artifacts: Artifacts = Artifacts()
    tracking: Tracking = Tracking()
    specialist: Specialist = Specialist()
    runs: Runs = Runs()
    logs: Logs = Logs()
    access: Access = Access()
    price_per_cpu_hour: float = 0.0
    """In any currency; for the cost of each stage."""

    @property
    def data_path(self) -> pathlib.Path:
        """Give the absolute data folder."""
        return pathlib.Path(self.data_dir).resolve()

    @property
    def artifacts_uri(self) -> str:
        """Give the artifact store's URI."""
        return self.artifacts.uri or (self.data_path / "artifacts").as_uri()

    @property
    def tracking_uri(self) -> str:
        """Give MLflow's URI."""
        return self.tracking.uri or f"sqlite:///{self.data_path / 'mlflow.db'}"

    def services(self, nats_url: str) -> kit.Services:
        """Give what stages may reach."""
        return kit.Services(
            tracking_uri=self.tracking_uri,
            nats_url=nats_url,
            data_roots=tuple(str(pathlib.Path(root).resolve()) for root in self.access.data_roots),
            allowed_schemes=self.access.allowed_schemes,
            allowed_hosts=self.access.allowed_hosts,
            secrets=self.access.secrets,
            nats_credentials=self.nats.credentials,
            nats_nkey_seed=self.nats.nkey_seed,
            nats_tls_ca=self.nats.tls_ca,
            max_input_bytes=self.access.max_input_bytes,
        )


class Value(msgspec.Struct, frozen=True):
    """One effective setting and where it comes from."""

    value: Any
    source: str = "default"


class Loaded(msgspec.Struct, frozen=True):
    """The settings, and the origin of each by its dotted key."""

    settings: Settings
    values: dict[str, Value]

    def shown(self) -> dict[str, Value]:
        """Give every value as it may be printed: passwords inside URLs are hidden."""
        return {k: Value(redact(v.value), v.source) for k, v in self.values.items()}


def load(
    file: pathlib.Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Iterable[str] = (),
) -> Settings:
    """Make the settings from flags over environment over file over defaults.

    `overrides` are `key=value` texts. Raises ConfigError.
    """
    return resolve(file, env, overrides).settings


def resolve(
    file: pathlib.Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Iterable[str] = (),
) -> Loaded:
    """Do as `load` does and say where each value comes from."""
    environment = os.environ if env is None else env
    known = dict(_leaves(Settings))
    values = {key: Value(_default(key)) for key in known}
    for key, raw, source in _layers(file, environment, list(overrides)):
        if key not in known:
            raise UnknownKey(key, source, known)
        values[key] = Value(_convert(key, raw, known[key], source), source)
    return Loaded(_assemble(values), values)


def redact(value: Any) -> Any:
    """Hide the user and password inside a URL."""
    if isinstance(value, str):
        return re.sub(r"(//)[^/@]+@", r"\1***@", value)
    return value


def _layers(
    file: pathlib.Path | None, env: Mapping[str, str], overrides: list[str]
) -> Iterator[tuple[str, Any, str]]:
    path = _find(file, env)
    if path is not None:
        yield from ((key, raw, str(path)) for key, raw in _flatten(_read(path)))
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
    default = pathlib.Path(DEFAULT_FILE)
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


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
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
    found: Any = Settings()
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _convert(key: str, raw: Any, hint: Any, source: str) -> Any:
    from_text = isinstance(raw, str) and not source.endswith((".toml", ".yaml", ".yml"))
    value = raw
    if from_text and typing.get_origin(hint) is tuple:
        value = [part.strip() for part in raw.split(",") if part.strip()]
    try:
        return msgspec.convert(value, hint, strict=not from_text)
    except msgspec.ValidationError as error:
        reason = str(error).removesuffix(" - at `$`")
        raise BadValue(key, redact(raw), source, reason) from error


def _assemble(values: Mapping[str, Value]) -> Settings:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value.value
    return msgspec.convert(tree, Settings)
