"""Owns the step cache: what a stage made before, found by everything that went into it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.artifacts import errors, sources, store
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

        See `store.Store.renew` for what is verified here, and what when it is read.
        """
        record = self._read(_name(stage, key))
        if record is None:
            return None
        try:
            whole = all(self._store.renew(ref) for ref in record.outputs.values())
        except errors.ForeignArtifact:
            return None  # the store has been moved since
        return record if whole else None

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
        for name, _ in self._store.records(_folder(stage))[:_COMPARED]:
            record = self._read(name)
            if record is None or record.key == key:
                continue
            found = differences(record.components, components)
            if best is None or len(found) < len(best):
                best = found
        return best

    def records(self) -> list[tuple[str, Record]]:
        """List every record with its name."""
        return [(name, record) for name, _, record in self.dated() if record is not None]

    def dated(self) -> list[tuple[str, float, Record | None]]:
        """List what is kept as (name, POSIX time of last change, record or None if unreadable)."""
        names = self._store.records(_FOLDER)
        return [(name, changed, self._read(name)) for name, changed in names]

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
        "code": sources.code_digest(definition),
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
    old, new = _parts(before), _parts(now)
    return [
        Difference(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if _written(old, name) != _written(new, name)
    ]


def _parts(gathered: Components) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, value in gathered.items():
        if isinstance(value, dict):
            parts |= {f"{name}.{inner}": part for inner, part in value.items()}
        else:
            parts[name] = value
    return parts


def _written(parts: dict[str, Any], name: str) -> bytes | None:
    """Give a part as it goes into the key, where 1 and 1.0, or null and nothing, are not equal."""
    return msgspec.json.encode(parts[name], order="sorted") if name in parts else None


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
