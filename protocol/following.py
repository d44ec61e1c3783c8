"""Owns reading journals: by stored sequence alone, so that no reconnect can lose a commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from protocol import cloudevents, codec, events, subjects

POLL_S = 1.0
"""How long a lost announcement can delay what is read from the journal."""
_TERMINAL = events.RunSucceeded | events.RunFailed | events.RunCancelled


class Raw(msgspec.Struct, frozen=True):
    """A commit's bytes as they are stored."""

    sequence: int
    subject: str
    data: bytes


class Entry(msgspec.Struct, frozen=True):
    """An event and its place in the journal."""

    id: str
    run_id: str
    commit: int
    index: int
    sequence: int
    event: events.AnyEvent


class Filter(msgspec.Struct, frozen=True):
    """Which events are wanted; None means any."""

    run_id: str | None = None
    scope: str | None = None
    kind: str | None = None

    def takes(self, entry: Entry) -> bool:
        """Tell whether the event is wanted."""
        named = {cloudevents.token(entry.event), cloudevents.type_of(entry.event)}
        return (
            self.run_id in {None, entry.run_id}
            and self.scope in {None, entry.event.scope}
            and (self.kind is None or self.kind in named)
        )


async def follow(
    connection: Nats, names: subjects.Subjects, run_id: str, *, from_start: bool = True
) -> AsyncIterator[Entry]:
    """Read a run's events until it is over and nothing follows its end."""
    subject = names.run_journal(run_id)
    async with _waker(connection, names.run_events(run_id)) as wake:
        first = 1 if from_start else await _end(connection, names, subject) + 1
        over = not from_start and await _is_over(connection, names, subject)
        while True:
            wake.clear()
            async for raw in stored(connection, names, subject, first):
                first = raw.sequence + 1
                for entry in _entries(raw):
                    over = isinstance(entry.event, _TERMINAL) or (
                        over and not isinstance(entry.event, events.RunResumed)
                    )
                    yield entry
            if over:
                return
            await _wait(wake)


async def tail(
    connection: Nats, names: subjects.Subjects, wanted: Filter, *, from_start: bool = False
) -> AsyncIterator[Entry]:
    """Read the events that are wanted, of any run, without end."""
    subject = names.run_journal(wanted.run_id) if wanted.run_id else names.all_journals
    announced = names.run_events(wanted.run_id) if wanted.run_id else names.all_events
    async with _waker(connection, announced) as wake:
        first = 1 if from_start else await _end(connection, names, subject) + 1
        while True:
            wake.clear()
            async for raw in stored(connection, names, subject, first):
                first = raw.sequence + 1
                for entry in _entries(raw):
                    if wanted.takes(entry):
                        yield entry
            await _wait(wake)


async def stored(
    connection: Nats, names: subjects.Subjects, subject: str, first: int = 1
) -> AsyncIterator[Raw]:
    """Read what is stored from a sequence on, up to now; wait through a reconnect."""
    stream = connection.jetstream()
    while True:
        try:
            message = await stream.get_msg(
                names.journal_stream, seq=first, subject=subject, next=True
            )
        except nats.js.errors.NotFoundError:
            return
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
            if connection.is_closed:
                raise
            await asyncio.sleep(POLL_S / 10)  # the server is away: ask again, from the same place
            continue
        sequence = int(message.seq or 0)
        yield Raw(sequence, message.subject or subject, message.data or b"")
        first = sequence + 1


def _entries(raw: Raw) -> list[Entry]:
    commit = codec.decode(raw.data, events.Commit)
    return [
        Entry(
            cloudevents.event_id(commit.run_id, commit.number, index),
            commit.run_id,
            commit.number,
            index,
            raw.sequence,
            event,
        )
        for index, event in enumerate(commit.events)
    ]


async def _last(connection: Nats, names: subjects.Subjects, subject: str) -> Raw | None:
    try:
        message = await connection.jetstream().get_last_msg(names.journal_stream, subject)
    except nats.js.errors.NotFoundError:
        return None
    return Raw(int(message.seq or 0), message.subject or subject, message.data or b"")


async def _end(connection: Nats, names: subjects.Subjects, subject: str) -> int:
    last = await _last(connection, names, subject)
    return last.sequence if last else 0


async def _is_over(connection: Nats, names: subjects.Subjects, subject: str) -> bool:
    last = await _last(connection, names, subject)
    return last is not None and any(isinstance(e.event, _TERMINAL) for e in _entries(last))


@contextlib.asynccontextmanager
async def _waker(connection: Nats, subject: str) -> AsyncIterator[asyncio.Event]:
    wake = asyncio.Event()

    async def rouse(_message: Msg) -> None:
        wake.set()

    subscription = await connection.subscribe(subject, cb=rouse)
    try:
        yield wake
    finally:
        if not connection.is_closed:
            await subscription.unsubscribe()


async def _wait(wake: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(wake.wait(), POLL_S)
