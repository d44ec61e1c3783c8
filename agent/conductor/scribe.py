"""Owns the writing of one run's journal: events gather into commits, one in flight at a time."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime as dt
from collections.abc import Callable, Sequence

import msgspec
import structlog
import tenacity

from agent.bus import announce, journal
from protocol import chain, codec, events

log = structlog.get_logger()

Clock = Callable[[], dt.datetime]
Action = Callable[[], None]
OnLost = Callable[[BaseException], None]

ENVELOPE_BYTES = 4096
"""Of a commit, beside its events."""
LINGER_S = 0.01
"""How long a commit waits for company where nobody waits for it: fewer commits cost less."""
FRESH_S = 1.0
"""How old an answer may be that says that nobody else owns the run."""
MAX_EVENTS = 512
"""Of one commit; a wide fan-out goes into several, each well under the server's max payload."""
MOST_BEHIND = 2 * MAX_EVENTS
"""How many entries may be pending before the run waits for the journal."""


class Position(msgspec.Struct, frozen=True):
    """Where a journal ends: the stream sequence, number and digest of its last commit."""

    sequence: int = 0
    number: int = 0
    digest: str = ""


class _Entry(msgspec.Struct):
    events: Sequence[events.AnyEvent]
    then: Sequence[Action]


class Scribe:
    """Writes what happens to one run, in order, under one epoch.

    `record` returns at once. A commit takes everything that was recorded while the one before it
    was on its way, so the journal costs one append at a time however fast the run is. Stages do
    not wait for it; what does, as an effect outside or the run's end, makes it go at once.
    """

    def __init__(
        self,
        run_id: str,
        owner: str,
        epoch: int,
        position: Position,
        *,
        journal: journal.Journal,
        announcer: announce.Announcer,
        clock: Clock,
        max_bytes: int,
        on_lost: OnLost,
        traceparent: str | None = None,
    ) -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.position = position
        self._owner = owner
        self._journal = journal
        self._announcer = announcer
        self._clock = clock
        self._max_bytes = max_bytes
        self._on_lost = on_lost
        self._traceparent = traceparent
        self.lost = False
        """Nothing more is written: what was recorded last may not be stored."""
        self.begun = False
        """Something is stored under this epoch: until then nobody knows who owns the run."""
        self._pending: collections.deque[_Entry] = collections.deque()
        self._writer: asyncio.Task[None] | None = None
        self._urgent = asyncio.Event()
        """Somebody waits for what is pending."""

    @property
    def max_event_bytes(self) -> int:
        """Give the size that one event may have."""
        return self._max_bytes - ENVELOPE_BYTES

    @property
    def behind(self) -> bool:
        """Tell whether so much is pending that nothing more should be begun before it is stored."""
        return len(self._pending) >= MOST_BEHIND

    def record(self, facts: Sequence[events.AnyEvent], then: Sequence[Action] = ()) -> None:
        """Add events to the next commit; do `then` once it is stored."""
        if self.lost or (not facts and not then):
            return
        self._pending.append(_Entry(facts, then))
        if then:
            self._urgent.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name=f"scribe {self.run_id}")

    async def flush(self) -> None:
        """Wait until everything recorded so far is stored, or ownership is lost."""
        if self._writer is not None:
            stored = asyncio.Event()
            self.record((), [stored.set])
            reached = asyncio.create_task(stored.wait(), name=f"flush {self.run_id}")
            try:
                await asyncio.wait({self._writer, reached}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                reached.cancel()

    async def release(self) -> None:
        """Note as the last thing under this epoch that the run was given back in order."""
        if self.begun and not self.lost:
            commit = msgspec.structs.replace(self._compose([]), released=True)
            expected = self.position.sequence
            with contextlib.suppress(journal.Unavailable, journal.Fenced):  # then it is a loss
                await self._journal.append(self.run_id, codec.encode(commit), expected=expected)

    def abandon(self) -> None:
        """Write no more: somebody else owns the run."""
        self.lost = True
        self._pending.clear()
        if self._writer is not None:
            self._writer.cancel()

    async def confirm(self) -> bool:
        """Tell whether the run is ours yet, once all that was recorded so far is stored.

        What changes something that the run's next owner relies on asks this first. An answer that
        was long on its way, or met us frozen, is asked for again.
        """
        await self.flush()
        loop = asyncio.get_running_loop()
        while not self.lost:
            asked = loop.time()
            if await self._retrying()(self._overtaken):
                self._lose(journal.Fenced(self.run_id, self.position.sequence))
            elif loop.time() - asked < FRESH_S:
                return True
        return False

    async def _overtaken(self) -> bool:
        last = await self._journal.last(self.run_id)
        return last is not None and codec.decode(last[1], events.Commit).epoch > self.epoch

    def _lose(self, why: BaseException) -> None:
        self.lost = True
        self._pending.clear()
        self._on_lost(why)

    async def _write(self) -> None:
        try:
            while self._pending:
                await self._linger()
                await self._commit(self._gather())
        except Exception as error:  # noqa: BLE001 - a fence, or a defect: the run must not hang on it
            self._lose(error)
        finally:
            self._writer = None

    async def _linger(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self._urgent.wait()
        self._urgent.clear()

    def _gather(self) -> list[_Entry]:
        batch = [self._pending.popleft()]
        count = len(batch[0].events)
        while self._pending and count + len(self._pending[0].events) <= MAX_EVENTS:
            batch.append(self._pending.popleft())
            count += len(batch[-1].events)
        return batch

    async def _commit(self, batch: list[_Entry]) -> None:
        facts = [fact for entry in batch for fact in entry.events]
        await self._store(facts)
        for entry in batch:
            for action in entry.then:
                action()

    async def _store(self, facts: list[events.AnyEvent]) -> None:
        if not facts:
            return
        commit = self._compose(facts)
        data = codec.encode(commit)
        if len(data) > self._max_bytes and len(facts) > 1:
            middle = len(facts) // 2
            await self._store(facts[:middle])
            await self._store(facts[middle:])
            return
        sequence = await self._append(data)
        self.position = Position(sequence, commit.number, chain.digest(data))
        self.begun = True
        await self._announcer.commit(commit, self._traceparent)

    def _compose(self, facts: list[events.AnyEvent]) -> events.Commit:
        return events.Commit(
            run_id=self.run_id,
            number=self.position.number + 1,
            epoch=self.epoch,
            owner=self._owner,
            at=self._clock(),
            previous=self.position.digest,
            events=facts,
        )

    async def _append(self, data: bytes) -> int:
        """Append until it is stored: a broker that is away only makes the run wait."""
        expected = self.position.sequence
        with contextlib.suppress(journal.Unavailable):
            return await self._journal.append(self.run_id, data, expected=expected)
        return await self._retrying()(self._journal.append, self.run_id, data, expected=expected)

    def _retrying(self) -> tenacity.AsyncRetrying:
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(journal.Unavailable),
            wait=tenacity.wait_exponential(multiplier=0.05, max=2),
            before_sleep=self._waiting,
            reraise=True,
        )

    def _waiting(self, state: tenacity.RetryCallState) -> None:
        log.warning("journal.unavailable", run=self.run_id, attempt=state.attempt_number)
