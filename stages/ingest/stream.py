"""Owns the stage that reads messages of a JetStream subject, between two bounds, into a table."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from stages import kit, values
from stages.ingest import guard, jetstream, messages, table, text

if TYPE_CHECKING:
    import pyarrow as pa
    from nats.aio.msg import Msg

_TIME = r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"
Sequence = Annotated[int, msgspec.Meta(ge=1)]
Start = Sequence | Annotated[str, msgspec.Meta(pattern=f"^(beginning|{_TIME})$")]
End = Sequence | Annotated[str, msgspec.Meta(pattern=f"^{_TIME}$")]

_SHOWN = 5
_LOOK_EVERY = 100
_MOMENT = dt.timedelta(microseconds=1)
SEQUENCE, TIME, SUBJECT = "_sequence", "_time", "_subject"


class NoServer(kit.DataFault):
    """The configuration names no NATS server."""

    def __init__(self) -> None:
        super().__init__("no NATS server is configured", hint="the agent's setting nats.url")


class NotATime(kit.DataFault):
    """A bound has the form of a time, and is none."""

    def __init__(self, given: str, path: str) -> None:
        super().__init__(f"there is no time {given!r}", hint="as 2026-11-24T10:00:00Z", path=path)


class StartAfterEnd(kit.DataFault):
    """The bounds leave nothing between them."""

    def __init__(self, start: object, end: object) -> None:
        super().__init__(
            f"the start {start!s} lies after the end {end!s}", hint="exchange them", path="$.start"
        )


class NoMessages(kit.DataFault):
    """A stream holds nothing to read of the subject between the bounds."""

    def __init__(self, subject: str, held: jetstream.Held, reason: str) -> None:
        kept = ", ".join(held.subjects[:_SHOWN])
        super().__init__(
            f"the stream {held.name!r} holds no message of the subject {subject!r} {reason}",
            hint=f"look at start and end; its subjects are {kept}",
            path="$.subject",
        )


class Undecodable(kit.DataFault):
    """A message is not of the format that is read."""

    def __init__(self, sequence: int, kind: str, reason: str) -> None:
        super().__init__(
            f"message {sequence} is not {kind}, an object: {reason}",
            hint="choose another format, or let undecodable be 'skip'",
            path="$.format",
        )
        self.sequence = sequence


class TooMuch(kit.DataFault):
    """The messages hold more bytes than may be read."""

    def __init__(self, subject: str, limit: int) -> None:
        super().__init__(
            f"the messages of {subject!r} hold more bytes than the {limit} that are allowed",
            hint="set max_messages, start or end, or raise the setting access.max_input_bytes",
            path="$.max_messages",
        )


class NameTaken(kit.DataFault):
    """The messages have a field of a name that the metadata has."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"the messages have fields named {', '.join(names)}, as the metadata has",
            hint="let add_metadata be false",
            path="$.add_metadata",
        )


class _Taken:
    """What has been read so far."""

    def __init__(self) -> None:
        self.sequences: list[int] = []
        self.times: list[dt.datetime] = []
        self.subjects: list[str] = []
        self.counts: list[int] = []
        """Rows of each message."""
        self.bytes = 0
        self.skipped: list[int] = []
        self.more = False
        """Messages between the bounds are left, for there were enough."""

    def number(self) -> int:
        """Count the messages, those that were skipped too."""
        return len(self.sequences) + len(self.skipped)

    def share(self, held: jetstream.Held) -> float:
        """Guess how far the reading is, by sequences."""
        seen = [*self.sequences[:1], *self.skipped[:1], *self.sequences[-1:], *self.skipped[-1:]]
        return (max(seen) - min(seen) + 1) / (held.last - min(seen) + 1)

    def count(self, message: Msg, rows: int) -> None:
        """Count a message with its rows."""
        found = message.metadata
        self.sequences.append(found.sequence.stream)
        self.times.append(found.timestamp)
        self.subjects.append(message.subject)
        self.counts.append(rows)


@kit.stage("ingest.stream", libraries=("pyarrow", "nats-py"))
class Stream(kit.Stage, frozen=True):
    """Read messages of a JetStream subject, between two bounds, into a table.

    Nothing is acknowledged or taken from others, and what comes while it reads is left. Which
    subjects may be read is for the permissions of the server's user to say, the agent's own too.
    """

    subject: Annotated[str, msgspec.Meta(min_length=1)]
    """It may have wildcards."""
    stream: str | None = None
    """Found by the subject, where not given."""
    format: messages.Format = "json"
    """A message is a JSON object, lines of them, or a MessagePack map."""
    start: Start = "beginning"
    """A sequence, a time of RFC 3339, or the stream's beginning; itself included."""
    end: End | None = None
    """A sequence or a time, itself included; else the last message when the read begins."""
    max_messages: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Read at most so many."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    """For the whole read."""
    add_metadata: bool = False
    """Add the columns `_sequence`, `_time` and `_subject`."""
    undecodable: Literal["fail", "skip"] = "fail"
    """Whether a message of another format fails, or is left out and counted."""
    mixed: text.Mixed = "fail"
    """Whether a field of several types fails or is read as text."""

    def fingerprint(self, context: kit.Context) -> str | None:
        """Digest which messages lie between the bounds; None if the server does not tell.

        Sequences are given once and their messages never change, so that the stream, its creation,
        the last sequence and the number of messages say which they are.
        """
        try:
            return asyncio.run(self._marks(context))
        except (kit.DataFault, kit.Transient):
            return None

    async def _marks(self, context: kit.Context) -> str:
        start, end = self._bounds()
        async with jetstream.connected(_services(context)) as reader:
            held = await reader.find(self.subject, self.stream)
            number = await reader.count(held, self.subject, start)
            if (after := _after(end)) is not None:
                number -= await reader.count(held, self.subject, after)
        last: object = end if _within(held, end) else held.last
        facts = f"{held.name}\n{held.created}\n{last}\n{number}"
        return hashlib.sha256(facts.encode()).hexdigest()

    def run(self, context: kit.Context) -> table.Read:
        """Read up to the end, and no further."""
        with messages.rows(self.format, f"nats:{self.subject}", context, self.mixed) as rows:
            held, taken = asyncio.run(self._read(rows, context))
            if not any(taken.counts):
                skipped = f"; {len(taken.skipped)} were skipped" if taken.skipped else ""
                raise NoMessages(self.subject, held, f"between the bounds{skipped}")
            found = self._with_metadata(table.named(rows.table(), {}), taken)
        if not found.num_columns:
            raise NoMessages(self.subject, held, "that has a field")
        return table.Read(values.Table(found), self._report(found, held, taken))

    def _bounds(self) -> tuple[jetstream.Position, jetstream.Position]:
        start = None if self.start == "beginning" else _position(self.start, "$.start")
        end = _position(self.end, "$.end") if self.end is not None else None
        if type(start) is type(end) and start is not None and start > end:  # type: ignore[operator]
            raise StartAfterEnd(self.start, self.end)
        return start, end

    async def _read(
        self, rows: messages.Rows, context: kit.Context
    ) -> tuple[jetstream.Held, _Taken]:
        start, end = self._bounds()
        taken = _Taken()
        bounds = guard.Guard(f"nats:{self.subject}", context, timeout_s=self.timeout_s)
        async with jetstream.connected(_services(context)) as reader:
            held = await reader.find(self.subject, self.stream)
            if not held.last:
                raise NoMessages(self.subject, held, "at all")
            found = reader.messages(held, self.subject, start, bounds.check)
            async with contextlib.aclosing(found):
                async for message in found:
                    if _beyond(message, held, end) or self._enough(taken):
                        break
                    self._take(message, rows, taken, context)
                    if taken.number() % _LOOK_EVERY == 0:
                        bounds.check()
                        context.progress(taken.share(held), f"{taken.number()} messages read")
                    if message.metadata.sequence.stream == held.last:
                        break
        return held, taken

    def _enough(self, taken: _Taken) -> bool:
        taken.more = self.max_messages is not None and len(taken.sequences) >= self.max_messages
        return taken.more

    def _take(self, message: Msg, rows: messages.Rows, taken: _Taken, context: kit.Context) -> None:
        taken.bytes += len(message.data)
        if taken.bytes > context.services.max_input_bytes:
            raise TooMuch(self.subject, context.services.max_input_bytes)
        sequence = message.metadata.sequence.stream
        try:
            taken.count(message, rows.add(message.data))
        except messages.NotDecoded as error:
            if self.undecodable == "fail":
                raise Undecodable(sequence, self.format, str(error)) from error
            taken.skipped.append(sequence)

    def _with_metadata(self, found: pa.Table, taken: _Taken) -> pa.Table:
        import pyarrow as pa

        if not self.add_metadata:
            return found
        if clash := [name for name in (SEQUENCE, TIME, SUBJECT) if name in found.column_names]:
            raise NameTaken(clash)
        columns: tuple[tuple[str, list[Any], pa.DataType], ...] = (
            (SEQUENCE, taken.sequences, pa.int64()),
            (TIME, taken.times, pa.timestamp("us", "UTC")),
            (SUBJECT, taken.subjects, pa.string()),
        )
        for name, each, kind in columns:
            cells = pa.array(messages.repeated(each, taken.counts), kind)
            found = found.append_column(name, cells)
        return found

    def _report(self, found: pa.Table, held: jetstream.Held, taken: _Taken) -> values.Report:
        said = f"{found.num_rows} rows and {found.num_columns} columns from {held.name}"
        said += f", {self.subject}"
        if taken.skipped:
            said += f"; {len(taken.skipped)} messages could not be decoded"
        if taken.more:
            said += "; there are more messages"
        facts = {
            "source": f"nats:{self.subject}",
            "rows": found.num_rows,
            "columns": found.num_columns,
            "stream": held.name,
            "format": self.format,
            "messages": len(taken.sequences),
            "bytes": taken.bytes,
            "first_sequence": taken.sequences[0],
            "last_sequence": taken.sequences[-1],
            "skipped": len(taken.skipped),
            "skipped_sequences": taken.skipped[:_SHOWN],
            "truncated": taken.more,
        }
        return values.Report({"title": "Ingestion", "summary": said} | facts)


def _services(context: kit.Context) -> kit.Services:
    if not context.services.nats_url:
        raise NoServer
    return context.services


def _position(given: int | str, path: str) -> int | dt.datetime:
    if isinstance(given, int):
        return given
    try:
        return dt.datetime.fromisoformat(given.upper())
    except ValueError as error:
        raise NotATime(given, path) from error


def _after(end: jetstream.Position) -> jetstream.Position:
    if isinstance(end, dt.datetime):
        return end + _MOMENT
    return None if end is None else end + 1


def _within(held: jetstream.Held, end: jetstream.Position) -> bool:
    """Tell whether the end lies among what the stream holds: what comes later comes after it."""
    if isinstance(end, dt.datetime):
        return held.last_time is not None and held.last_time > end
    return end is not None and held.last > end


def _beyond(message: Msg, held: jetstream.Held, end: jetstream.Position) -> bool:
    found = message.metadata
    if found.sequence.stream > held.last:
        return True
    if isinstance(end, dt.datetime):
        return bool(found.timestamp > end)
    return end is not None and found.sequence.stream > end
