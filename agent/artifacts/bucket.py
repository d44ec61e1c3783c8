"""Owns the format of a bucket of the bus's object store (ADR-20 of NATS), on one connection.

An object is a message that describes it, the last of its subject, and the chunks that this names.
It is there once it is described, and so only whole. The library's own `ObjectStore` reads by an
ordered consumer, which waits for ever where a chunk is missing, cannot read from the middle, and
replaces without a look at what somebody else has put there meanwhile.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client

ANSWER_S = 5.0
"""Of the server to one question; a connection that is lost for a moment is waited for so long."""
CHUNK_BYTES = 128 * 1024
AT_ONCE = 32
"""Chunks that are read with one question."""
_PAGE = 512
_NO_MESSAGE, _WRONG_LAST_SEQUENCE = 10037, 10071
_NO_RESPONDERS = "503"


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What describes an object, as every client of NATS reads it."""

    name: str
    bucket: str
    nuid: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{1,64}\Z")]
    """Its chunks' own token, never a wildcard; an object that is replaced has another."""
    size: int = 0
    chunks: int = 0
    digest: str = ""
    mtime: str = ""
    deleted: bool = False
    """So other clients mark what they delete; here nothing is left of it."""


_NOTHING = Meta("", "", "", deleted=True)
"""Stands for a description that cannot be read."""


class Found(msgspec.Struct, frozen=True):
    """An object, and where and when the server has stored its description."""

    meta: Meta
    sequence: int
    changed: float
    """POSIX time."""


class _Stored(msgspec.Struct, frozen=True):
    sequence: int
    at: str
    data: bytes


class Bucket:
    """Reads and writes one bucket; raises what the client of NATS raises."""

    def __init__(self, nc: Client, name: str) -> None:
        self._nc = nc
        self._js = nc.jetstream(timeout=ANSWER_S)
        self._stream = f"OBJ_{name}"
        self._chunks = f"$O.{name}.C."
        self._metas = f"$O.{name}.M."

    async def find(self, name: str) -> Found | None:
        """Find an object; None where there is none."""
        found = await self._last(name)
        return found if found and not found.meta.deleted else None

    async def listed(self, first: int) -> list[Found]:
        """Give the next objects whose descriptions lie at a sequence or after it; none at the end.

        What other clients have marked as deleted is among them, and what cannot be read.
        """
        found = await self._batch(f"{self._metas}>", first, _PAGE)
        return [Found(_meta(each.data), each.sequence, _posix(each.at)) for each in found]

    async def append(self, nuid: str, data: bytes) -> None:
        """Store the next chunk."""
        await self._js.publish(f"{self._chunks}{nuid}", data)

    async def describe(self, meta: Meta) -> None:
        """Make an object of its chunks, in place of one of that name, whose chunks go."""
        before = await self._last(meta.name)
        while not await self._described(meta, before.sequence if before else 0):
            before = await self._last(meta.name)  # another was quicker
        await self._forget_all_of(before)

    async def read(self, nuid: str, first: int) -> tuple[bytes, int]:
        """Give the bytes of the next chunks that lie at a sequence or after it, and where to go on.

        There are none at the end.
        """
        found = await self._batch(f"{self._chunks}{nuid}", first, AT_ONCE)
        after = found[-1].sequence + 1 if found else first
        return b"".join(each.data for each in found), after

    async def remove(self, name: str) -> None:
        """Delete an object, unless it is replaced meanwhile."""
        found = await self._last(name)
        if found is not None:
            subject = self._subject(name)
            await self._js.purge_stream(self._stream, found.sequence + 1, subject)
            await self._forget_all_of(found)

    async def forget(self, nuid: str) -> None:
        """Delete chunks that no object is made of, or any more."""
        await self._js.purge_stream(self._stream, subject=f"{self._chunks}{nuid}")

    async def written(self) -> list[str]:
        """Give the tokens of all chunks, those of unfinished objects included."""
        info = await self._js.stream_info(self._stream, subjects_filter=f"{self._chunks}*")
        return [subject.removeprefix(self._chunks) for subject in info.state.subjects or {}]

    async def last_written(self, nuid: str) -> float:
        """Give the POSIX time of the last of an object's chunks; 0 where there is none."""
        try:
            raw = await self._js.get_last_msg(self._stream, f"{self._chunks}{nuid}")
        except nats.js.errors.NotFoundError:
            return 0.0
        return _posix(raw.time)

    async def _forget_all_of(self, found: Found | None) -> None:
        if found is not None and found.meta.nuid:
            await self.forget(found.meta.nuid)

    async def _last(self, name: str) -> Found | None:
        try:
            raw = await self._js.get_last_msg(self._stream, self._subject(name))
        except nats.js.errors.NotFoundError as error:
            if error.err_code != _NO_MESSAGE:
                raise  # there is no bucket
            return None
        return Found(_meta(raw.data or b""), int(raw.seq or 0), _posix(raw.time))

    async def _described(self, meta: Meta, sequence: int) -> bool:
        """Describe an object, unless another has done so after this sequence; False then."""
        headers = {"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": str(sequence)}
        try:
            data = msgspec.json.encode(meta)
            await self._js.publish(self._subject(meta.name), data, headers=headers)
        except nats.js.errors.APIError as error:
            if error.err_code != _WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

    async def _batch(self, subject: str, first: int, most: int) -> list[_Stored]:
        """Read what a stream holds of a subject from a sequence on, in one direct get."""
        inbox = self._nc.new_inbox()
        answers = await self._nc.subscribe(inbox)
        wish = {"seq": first, "batch": most, "next_by_subj": subject}
        found: list[_Stored] = []
        try:
            asked = f"$JS.API.DIRECT.GET.{self._stream}"
            await self._nc.publish(asked, msgspec.json.encode(wish), reply=inbox)
            while True:
                message = await answers.next_msg(timeout=ANSWER_S)
                headers = message.headers or {}
                place = headers.get("Nats-Sequence")
                if place is None and headers.get("Status") == _NO_RESPONDERS:
                    raise nats.errors.NoRespondersError
                if place is None:  # the end of the batch, or nothing to be read
                    return found
                found.append(_Stored(int(place), headers["Nats-Time-Stamp"], message.data))
        finally:
            if not self._nc.is_closed:
                await answers.unsubscribe()

    def _subject(self, name: str) -> str:
        return f"{self._metas}{base64.urlsafe_b64encode(name.encode()).decode()}"


def pieces(data: bytes, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Cut bytes into chunks."""
    return (data[at : at + size] for at in range(0, len(data), size))


def _meta(data: bytes) -> Meta:
    try:
        return msgspec.json.decode(data, type=Meta)
    except msgspec.MsgspecError:
        return _NOTHING


def _posix(at: Any) -> float:
    moment = dt.datetime.fromisoformat(at) if isinstance(at, str) else at
    return float(moment.timestamp())
