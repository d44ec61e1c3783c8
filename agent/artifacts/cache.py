"""Owns the step cache: what a stage made before, found by everything that went into it."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.artifacts import store
from protocol import artifacts
from stages import kit

_FOLDER = "cache"
_COMPARED = 50
"""How many records of a stage `explain` looks at, newest first."""

Components = dict[str, Any]


class Record(msgspec.Struct, frozen=True):
    """What a stage made, and what went into it."""

    key: str
    components: Components
    outputs: dict[str, artifacts.ArtifactRef]
    metrics: dict[str, float] = {}


class Difference(msgspec.Struct, frozen=True):
    """One component that kept a stage from being reused."""

    component: str
    before: Any
    now: Any


class Cache:
    """Records in the artifact store, one document per key."""

    def __init__(self, kept: store.Store) -> None:
        self._store = kept

    def lookup(self, stage: str, key: str) -> Record | None:
        """Give the record of a key if all of its outputs are still there, whole.

        A table or model is checked again, byte by byte, when it is read.
        """
        record = self._read(_name(stage, key))
        if record is None or not all(self._store.holds(ref) for ref in record.outputs.values()):
            return None
        return record

    def remember(
        self,
        stage: str,
        key: str,
        components: Components,
        outputs: Mapping[str, artifacts.ArtifactRef],
        metrics: Mapping[str, float],
    ) -> None:
        """Keep what a stage made. Failures are never kept."""
        record = Record(key, components, dict(outputs), dict(metrics))
        self._store.write_record(_name(stage, key), msgspec.json.encode(record))

    def find(self, stage: str, key: str) -> Record | None:
        """Give the record of a key, whether or not its outputs are still there."""
        return self._read(_name(stage, key))

    def explain(self, stage: str, components: Components) -> list[Difference] | None:
        """Say what differs from the most similar record; None where there is no other record."""
        key = key_of(components)
        best: list[Difference] | None = None
        for name in self._store.records(_folder(stage))[:_COMPARED]:
            record = self._read(name)
            if record is None or record.key == key:
                continue
            found = differences(record.components, components)
            if best is None or len(found) < len(best):
                best = found
        return best

    def records(self) -> list[tuple[str, Record]]:
        """List every record with its name."""
        names = self._store.records(_FOLDER)
        return [(name, record) for name in names if (record := self._read(name)) is not None]

    def drop(self, name: str) -> None:
        """Forget a record."""
        self._store.remove_record(name)

    def _read(self, name: str) -> Record | None:
        data = self._store.read_record(name)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=Record)
        except msgspec.MsgspecError:
            return None  # written by a newer agent, or damaged: as good as not there


def components(
    definition: kit.Definition,
    params: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str | list[str]],
    fingerprint: str,
) -> Components:
    """Gather everything that decides what a stage makes. `inputs` gives digests by port."""
    counted = {port: d for port, d in inputs.items() if port not in definition.cache_ignores}
    return {
        "stage": definition.name,
        "code": code_digest(definition),
        "libraries": _versions(definition.libraries),
        "params": dict(params),
        "seed": seed,
        "inputs": counted,
        "source": fingerprint,
    }


def key_of(gathered: Components) -> str:
    """Digest components into a key."""
    return hashlib.sha256(msgspec.json.encode(gathered, order="sorted")).hexdigest()


def differences(before: Components, now: Components) -> list[Difference]:
    """Name the components that differ, one level into those that have parts."""
    return [
        Difference(name, _part(before, name), _part(now, name))
        for name in sorted(_names(before) | _names(now))
        if _part(before, name) != _part(now, name)
    ]


def _names(gathered: Components) -> set[str]:
    names: set[str] = set()
    for name, value in gathered.items():
        names |= {f"{name}.{part}" for part in value} if isinstance(value, dict) else {name}
    return names


def _part(gathered: Components, name: str) -> Any:
    outer, _, inner = name.partition(".")
    value = gathered.get(outer)
    return value.get(inner) if inner and isinstance(value, dict) else value


def _folder(stage: str) -> str:
    return f"{_FOLDER}/{stage}"


def _name(stage: str, key: str) -> str:
    return f"{_folder(stage)}/{key}.json"


@functools.cache
def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.cache
def code_digest(definition: kit.Definition) -> str:
    """Digest a stage's module and, transitively, what it imports from its own package.

    Imports inside functions count too. The digest is taken once per process: a running agent
    runs the code that it loaded.
    """
    module = definition.cls.__module__
    root = module.partition(".")[0]
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        source = _source(name)
        if name in seen or source is None:
            continue
        seen[name] = hashlib.sha256(source).hexdigest()
        waiting += _imported(source, root)
    return hashlib.sha256(msgspec.json.encode(seen, order="sorted")).hexdigest()[:16]


def _source(module: str) -> bytes | None:
    loaded = sys.modules.get(module)
    spec = getattr(loaded, "__spec__", None) or importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return pathlib.Path(spec.origin).read_bytes()


def _imported(source: bytes, root: str) -> list[str]:
    """Name the modules of the package `root` that a module imports anywhere in its text."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.partition(".")[0] == root and _is_module(name)]


@functools.cache
def _is_module(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
