"""Owns what is to be served, in a key-value bucket of the bus: it outlives agents and hosts."""

from __future__ import annotations

from typing import Any

import msgspec
import nats.js.errors
from nats.aio.client import Client

from protocol import artifacts, serving, subjects

KEPT = 100
"""Deployments of a model that are remembered, so that none is repeated."""
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_WRONG_SEQUENCE = 10071


class Changed(Exception):
    """Somebody else has changed what is to be served of a model."""

    def __init__(self, name: str) -> None:
        super().__init__(f"what is to be served of {name!r} was changed meanwhile")
        self.name = name


class Wanted(msgspec.Struct, frozen=True):
    """A version that is to serve, and its share of the requests."""

    version: str
    model: artifacts.ArtifactRef
    replicas: int = 1
    weight: float = 1.0


class Done(msgspec.Struct, frozen=True):
    """What came of a deployment, by its key."""

    version: str
    digest: str
    epoch: int


class Entry(msgspec.Struct, frozen=True):
    """What is to be served of a model; no versions once it was taken away."""

    name: str
    versions: list[Wanted] = []
    done: dict[str, Done] = {}
    before: Wanted | None = None
    """What served before, which a rollback brings back."""

    @property
    def newest(self) -> Wanted | None:
        """Give the version that serves."""
        return self.versions[-1] if self.versions else None

    def served_by(self, wanted: Wanted, key: str, epoch: int = 0) -> Entry:
        """Give the entry in which another version serves."""
        last = self.newest
        same = last is None or last.model.digest == wanted.model.digest
        done = self.with_done(key, Done(wanted.version, wanted.model.digest, epoch))
        return Entry(self.name, [wanted], done, self.before if same else last)

    def with_done(self, key: str, done: Done) -> dict[str, Done]:
        """Give what is remembered, with one more."""
        others = [item for item in self.done.items() if item[0] != key]
        return dict([*others, (key, done)][-KEPT:])


class Desired:
    """Reads and changes the bucket; revision 0 stands for a model that was never there."""

    def __init__(self, nc: Client, names: subjects.Subjects) -> None:
        self._js = nc.jetstream()
        self._names = names

    async def get(self, name: str) -> tuple[Entry, int]:
        """Give a model's entry and its revision."""
        key = self._names.endpoint_key(name)
        try:
            found = await self._js.get_last_msg(self._names.endpoints_stream, key, direct=True)
        except nats.js.errors.NotFoundError:
            return Entry(name), 0
        return msgspec.json.decode(found.data or b"", type=Entry), int(found.seq or 0)

    async def all(self) -> list[tuple[Entry, int]]:
        """Give every model's entry and its revision."""
        names = self._names
        filtered: Any = names.all_endpoint_keys
        info = await self._js.stream_info(names.endpoints_stream, subjects_filter=filtered)
        keys = info.state.subjects or {}
        return [await self.get(key.rpartition(".")[2]) for key in sorted(keys)]

    async def put(self, entry: Entry, revision: int) -> int:
        """Change a model's entry from the revision that was read; raise Changed."""
        try:
            ack = await self._js.publish(
                self._names.endpoint_key(entry.name),
                msgspec.json.encode(entry),
                stream=self._names.endpoints_stream,
                headers={_EXPECTED: str(revision)},
            )
        except nats.js.errors.APIError as error:
            if error.err_code == _WRONG_SEQUENCE:
                raise Changed(entry.name) from error
            raise
        return int(ack.seq)


def shown(entry: Entry) -> list[serving.EndpointVersion]:
    """Give the versions of an entry as they are told."""
    return [told(one) for one in entry.versions]


def told(one: Wanted) -> serving.EndpointVersion:
    """Give a version as it is told."""
    return serving.EndpointVersion(one.version, one.model.digest, one.replicas, one.weight)
