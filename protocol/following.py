"""Owns reading journals: by stored sequence alone, so that no reconnect can lose a commit."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from protocol import cloudevents, codec, events, subjects

BATCH = 256
"""How many commits are read at once."""
ANSWER_S = 5.0
NO_RESPONDERS = "503"
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
) -> AsyncGenerator[Entry, None]:
    """Read a run's events until it is over and nothing follows its end."""
    subject = names.run_journal(run_id)
    async with _waker(connection, names.run_events(run_id)) as wake:
        first = 1 if from_start else await _end(connection, names, subject) + 1
        over = not from_start and await _is_over(connection, names, subject)
        while True:
            await wake.arm()
            async for raw in stored(connection, names, subject, first):
                first = raw.sequence + 1
                for entry in _entries(raw):
                    over = isinstance(entry.event, _TERMINAL) or (
                        over and not isinstance(entry.event, events.RunResumed)
                    )
                    yield entry
            if over:
                return
            await wake.wait()


async def tail(
    connection: Nats, names: subjects.Subjects, wanted: Filter, *, from_start: bool = False
) -> AsyncIterator[Entry]:
    """Read the events that are wanted, of any run, without end."""
    subject = names.run_journal(wanted.run_id) if wanted.run_id else names.all_journals
    announced = names.run_events(wanted.run_id) if wanted.run_id else names.all_events
    first = 1 if from_start else await _end(connection, names, subject) + 1
    async for raw in commits(connection, names, subject, [announced], first=first):
        for entry in _entries(raw):
            if wanted.takes(entry):
                yield entry


async def commits(
    connection: Nats,
    names: subjects.Subjects,
    subject: str,
    announced: Sequence[str],
    *,
    first: int = 1,
    caught_up: Callable[[], None] = lambda: None,
) -> AsyncIterator[Raw]:
    """Read what is stored from a sequence on and then what comes, without end.

    An announcement on one of these subjects is looked for at once, anything else within `POLL_S`.
    """
    async with _waker(connection, *announced) as wake:
        while True:
            await wake.arm()
            async for raw in stored(connection, names, subject, first):
                first = raw.sequence + 1
                yield raw
            caught_up()
            await wake.wait()


async def stored(
    connection: Nats, names: subjects.Subjects, subject: str, first: int = 1
) -> AsyncIterator[Raw]:
    """Read what is stored from a sequence on, up to now; wait through a reconnect."""
    while True:
        try:
            found = await batch(connection, names, subject, first)
        except (nats.errors.Error, TimeoutError):
            if connection.is_closed:
                raise
            # The server is away, and what was to be sent may have piled up: ask again from here.
            await asyncio.sleep(POLL_S / 10)
            continue
        for raw in found:
            yield raw
            first = raw.sequence + 1
        if not found:
            return


async def batch(connection: Nats, names: subjects.Subjects, subject: str, first: int) -> list[Raw]:
    """Read the next commits from a sequence on in one direct get; none means that it is the end.

    Raises nats.errors.NoRespondersError or TimeoutError where the server is away.
    """
    inbox = connection.new_inbox()
    answers = await connection.subscribe(inbox)
    wish = {"seq": first, "batch": BATCH, "next_by_subj": subject}
    found: list[Raw] = []
    try:
        asked = f"$JS.API.DIRECT.GET.{names.journal_stream}"
        await connection.publish(asked, msgspec.json.encode(wish), reply=inbox)
        while True:
            message = await answers.next_msg(timeout=ANSWER_S)
            headers = message.headers or {}
            place = headers.get("Nats-Sequence")
            if place is None and headers.get("Status") == NO_RESPONDERS:
                raise nats.errors.NoRespondersError
            if place is None:  # the end of the batch, or nothing to be read
                return found
            found.append(Raw(int(place), headers.get("Nats-Subject", ""), message.data))
    finally:
        await answers.unsubscribe()


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


class _Waker:
    """Tells that something was announced: one message for each look at what is stored."""

    def __init__(self, connection: Nats, announced: Sequence[str]) -> None:
        self._connection = connection
        self._deaf = set(announced)
        self._listening: dict[str, Subscription] = {}
        self._woken = asyncio.Event()

    async def arm(self) -> None:
        """Listen, before what is stored is looked at, so that nothing comes in between."""
        self._woken.clear()
        while self._deaf:
            subject = self._deaf.pop()
            rouse = functools.partial(self._rouse, subject)
            self._listening[subject] = await self._connection.subscribe(subject, cb=rouse)
            await self._listening[subject].unsubscribe(limit=1)

    async def wait(self) -> None:
        """Wait for an announcement, or until it is time to look anyway."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):  # `wait_for` may swallow a cancellation
                await self._woken.wait()

    async def close(self) -> None:
        """Listen no more."""
        if not self._connection.is_closed:
            for subscription in self._listening.values():
                await subscription.unsubscribe()

    async def _rouse(self, subject: str, _message: Msg) -> None:
        del self._listening[subject]
        self._deaf.add(subject)
        self._woken.set()


@contextlib.asynccontextmanager
async def _waker(connection: Nats, *announced: str) -> AsyncIterator[_Waker]:
    waker = _Waker(connection, announced)
    try:
        yield waker
    finally:
        await waker.close()
