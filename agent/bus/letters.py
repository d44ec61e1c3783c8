"""Owns the reading of dead letters: they are listed, shown, sent again, or dropped."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from agent import config
from agent.bus import deadletter
from protocol import codec, subjects

REPLAYED = "Replayed-From"
PREVIEW = 4_000
"""Characters of a body that are shown."""

_AT_ONCE = 64
_API_S = 5.0
_NOT_FOUND, _NOT_DELETED = 10037, 10057
"""The error codes of a read, and of a deletion, that found nothing."""
_UNFINISHED = re.compile(r"//[^/,\s@]*$")
"""What may be the begin of a URL with a password, where the rest is cut off."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter, as it is shown: without its body."""

    sequence: int
    at: dt.datetime
    subject: str
    """That it came on."""
    code: str
    reason: str
    path: str = ""
    size_bytes: int
    """Of the body as it came."""
    whole: bool = True
    """False where some of the body or of the headers would not fit, and is gone."""


class Opened(Letter, frozen=True, kw_only=True):
    """A letter with what is in it."""

    headers: dict[str, str]
    body: str
    """As text, its begin; passwords in URLs are hidden."""


class Wanted(msgspec.Struct, frozen=True):
    """Which letters are wanted; None means any."""

    since: dt.datetime | None = None
    code: str | None = None
    subject: str | None = None

    def takes(self, letter: Letter) -> bool:
        """Tell whether a letter is wanted."""
        return self.code in {None, letter.code} and self.subject in {None, letter.subject}


class LetterError(Exception):
    """A letter cannot be dealt with as asked."""


class NoSuchLetter(LetterError):
    """There is no letter of this number, or no longer."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"there is no dead letter {sequence}")
        self.sequence = sequence


class NotWhole(LetterError):
    """Some of what was sent is gone, so it cannot be sent again."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"dead letter {sequence} is not whole: too large to be kept as it came")
        self.sequence = sequence


class NoReturn(LetterError):
    """A letter says that it came from where none comes from."""

    def __init__(self, sequence: int, subject: str) -> None:
        text = f"dead letter {sequence} names {subject!r}, where no letter can come from"
        super().__init__(text)
        self.sequence = sequence
        self.subject = subject


class Letters:
    """Reads the stream of dead letters, and takes letters out of it."""

    def __init__(self, nc: Client, names: subjects.Subjects) -> None:
        self._nc = nc
        self._js = nc.jetstream(timeout=_API_S)
        self._names = names

    async def newest(self, wanted: Wanted, limit: int) -> list[Letter]:
        """Give the newest letters that are wanted, oldest first."""
        found: list[Letter] = []
        async for raw in self._backwards():
            if len(found) == limit or (wanted.since is not None and raw.at < wanted.since):
                break
            letter = _letter(raw)
            if wanted.takes(letter):
                found.append(letter)
        return found[::-1]

    async def open(self, sequence: int) -> Opened:
        """Give a letter with what is in it; raise NoSuchLetter."""
        raw = await self._get(sequence)
        shown = {name: config.redact(value) for name, value in raw.headers.items()}
        letter = msgspec.structs.asdict(_letter(raw))
        return Opened(**letter, headers=shown, body=_preview(raw))

    async def replay(self, sequence: int) -> str:
        """Send a letter again to where it came on, and drop it; give the subject.

        Cut off between the two it is sent once more: what letters ask for is safe to repeat.
        Raises NoSuchLetter, NotWhole, or NoReturn: whoever may leave a dead letter could otherwise
        have anything published anywhere.
        """
        raw = await self._get(sequence)
        letter = _letter(raw)
        stream = self._stream(letter.subject)
        if stream is None:
            raise NoReturn(sequence, letter.subject)
        if not letter.whole:
            raise NotWhole(sequence)
        own = {
            # Nobody can know it beforehand: what is stored under it already would be all there is.
            "Nats-Msg-Id": f"replayed-{uuid.uuid4().hex}",
            REPLAYED: f"{self._names.deadletter_stream}/{sequence}",
        }
        headers = _theirs(raw.headers) | own
        await self._js.publish(letter.subject, raw.data, stream=stream, headers=headers)
        await self.drop(sequence)
        return letter.subject

    async def drop(self, sequence: int) -> None:
        """Delete a letter; raise NoSuchLetter."""
        try:
            await self._js.delete_msg(self._names.deadletter_stream, sequence)
        except nats.js.errors.APIError as error:
            if error.err_code != _NOT_DELETED:
                raise
            raise NoSuchLetter(sequence) from error

    def _stream(self, subject: str) -> str | None:
        """Name the stream that a letter comes from; None where none does."""
        if subject == self._names.pipeline_queue:
            return self._names.intake_stream
        return self._names.work_stream if self._names.read_work(subject) else None

    async def _backwards(self) -> AsyncIterator[_Raw]:
        state = (await self._js.stream_info(self._names.deadletter_stream)).state
        for last in range(state.last_seq, state.first_seq - 1, -_AT_ONCE):
            numbers = range(last, max(last - _AT_ONCE, state.first_seq - 1), -1)
            for raw in await asyncio.gather(*map(self._find, numbers)):
                if raw is not None:
                    yield raw

    async def _get(self, sequence: int) -> _Raw:
        raw = await self._find(sequence)
        if raw is None:
            raise NoSuchLetter(sequence)
        return raw

    async def _find(self, sequence: int) -> _Raw | None:
        subject = f"$JS.API.STREAM.MSG.GET.{self._names.deadletter_stream}"
        wish = msgspec.json.encode({"seq": sequence})
        answer = msgspec.json.decode(
            (await self._nc.request(subject, wish, timeout=_API_S)).data, type=_Answer
        )
        if answer.message is not None:
            return _raw(answer.message)
        error = answer.error or {}
        if error.get("err_code") == _NOT_FOUND:
            return None
        raise nats.js.errors.APIError.from_error(error)


class _Stored(msgspec.Struct):
    """A message as the broker gives it; nats-py reads its headers as those of a mail."""

    seq: int
    time: dt.datetime
    hdrs: bytes = b""
    data: bytes = b""


class _Answer(msgspec.Struct):
    message: _Stored | None = None
    error: dict[str, Any] | None = None


class _Raw(msgspec.Struct, frozen=True):
    sequence: int
    at: dt.datetime
    headers: dict[str, str]
    data: bytes


def _raw(stored: _Stored) -> _Raw:
    return _Raw(stored.seq, stored.time, _headers(stored.hdrs), stored.data)


def _headers(block: bytes) -> dict[str, str]:
    pairs = (line.partition(b":") for line in block.split(b"\r\n")[1:] if b":" in line)
    return {
        name.decode(errors="replace").strip(): value.decode(errors="replace").strip()
        for name, _, value in pairs
    }


def _letter(raw: _Raw) -> Letter:
    told = raw.headers
    cut = told.get(deadletter.BYTES, "")
    return Letter(
        sequence=raw.sequence,
        at=raw.at,
        subject=told.get(deadletter.SUBJECT, ""),
        code=told.get(deadletter.CODE, ""),
        reason=config.redact(told.get(deadletter.REASON, "")),
        path=told.get(deadletter.PATH, ""),
        size_bytes=int(cut) if re.fullmatch("[0-9]{1,15}", cut) else len(raw.data),
        whole=not cut and deadletter.HEADERS not in told,
    )


def _theirs(headers: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in headers.items() if not k.lower().startswith(deadletter.OURS)}


def _preview(raw: _Raw) -> str:
    text = str(config.redact(_text(raw)))
    return _UNFINISHED.sub("//***", text)[:PREVIEW]


def _text(raw: _Raw) -> str:
    """Write a body as JSON if it is some, so that no way of writing a URL hides a password."""
    packed = raw.headers.get(subjects.CONTENT_TYPE, "").startswith(codec.MSGPACK)
    try:
        value = (msgspec.msgpack if packed else msgspec.json).decode(raw.data)
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return raw.data.decode(errors="backslashreplace")
