"""Owns the runs this agent holds: takes their tickets, conducts them, lets them go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from agent import catalog
from agent.bus import announce, journal, nudges, tickets
from agent.conductor import conductor, ledger, scribe
from agent.execution import base
from agent.run import effects, stimuli

log = structlog.get_logger()

RETRY_AFTER_S = 5.0
"""How long a run rests after a defect of ours stopped its conductor."""


class Host:
    """Conducts up to `max_active` runs at a time, each under a ticket from the queue."""

    def __init__(
        self,
        agent_id: str,
        stages: catalog.Catalog,
        journals: journal.Journal,
        queue: tickets.Tickets,
        nudge: nudges.Nudges,
        executors: Mapping[effects.Placement, base.Executor],
        announcer: announce.Announcer,
        clock: scribe.Clock,
        *,
        max_active: int,
        max_commit_bytes: int,
    ) -> None:
        self._agent_id = agent_id
        self._stages = stages
        self._journals = journals
        self._queue = queue
        self._nudges = nudge
        self._executors = executors
        self._announcer = announcer
        self._clock = clock
        self._max_commit_bytes = max_commit_bytes
        self._slots = asyncio.Semaphore(max_active)
        self._active: dict[str, conductor.Conductor] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def load(self) -> int:
        """Count the runs held now."""
        return len(self._tasks)

    def held(self, run_id: str) -> conductor.Conductor | None:
        """Give the conductor of a run, if this agent holds it."""
        return self._active.get(run_id)

    def feed(self, run_id: str, stimulus: stimuli.Stimulus, cause: str) -> bool:
        """Let something happen to a run if it is held here; say whether it is."""
        held = self._active.get(run_id)
        if held is None:
            return False
        held.feed(stimulus, cause)
        return True

    async def serve(self) -> None:
        """Take tickets until cancelled."""
        while True:
            await self._slots.acquire()
            try:
                ticket = await self._queue.take()
            except BaseException:
                self._slots.release()
                raise
            task = asyncio.create_task(self._hold(ticket), name=f"run {ticket.run_id}")
            self._tasks.add(task)
            task.add_done_callback(self._released)

    async def close(self) -> None:
        """Hand every held run back to the queue: another agent goes on with it."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _released(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()

    async def _hold(self, ticket: tickets.Ticket) -> None:
        run_id = ticket.run_id
        if run_id in self._active:  # the ticket came twice; the first one is being worked on
            await ticket.done()
            return
        try:
            await self._conduct(ticket)
            await ticket.done()
        except asyncio.CancelledError:
            await ticket.hand_back(0)
            raise
        except conductor.OwnershipLost:
            log.warning("run.lost", run=run_id)
            await ticket.forget()
        except ledger.RunNotFound:
            log.warning("ticket.without_run", run=run_id)
            await ticket.hand_back(RETRY_AFTER_S)
        except Exception:  # the run is safe in its journal; the agent goes on with the others
            log.exception("run.broke", run=run_id)
            await ticket.hand_back(RETRY_AFTER_S)

    async def _conduct(self, ticket: tickets.Ticket) -> None:
        book = await ledger.load(ticket.run_id, self._journals, self._stages)
        if book.machine.state.ended:
            return
        conducting = conductor.Conductor(
            book, self._scribe(book), self._executors, self._announcer, self._clock
        )
        self._active[ticket.run_id] = conducting
        conduct = asyncio.ensure_future(conducting.conduct(self._agent_id))
        lost = asyncio.ensure_future(ticket.wait_lost())
        try:
            async with self._nudges.listen(ticket.run_id, conducting.feed):
                await asyncio.wait({conduct, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not conduct.done():  # the lease is over: somebody else may own the run already
                    log.warning("lease.expired", run=ticket.run_id)
                    conducting.scribe.abandon()
                    conduct.cancel()
                    raise conductor.OwnershipLost(ticket.run_id)
                await conduct
        finally:
            await _cancelled(conduct)
            await _cancelled(lost)
            self._active.pop(ticket.run_id, None)

    def _scribe(self, book: ledger.Ledger) -> conductor.WriterFactory:
        def make(on_lost: scribe.OnLost) -> scribe.Scribe:
            return scribe.Scribe(
                book.machine.state.run_id,
                self._agent_id,
                book.epoch + 1,
                book.position,
                journal=self._journals,
                announcer=self._announcer,
                clock=self._clock,
                max_bytes=self._max_commit_bytes,
                on_lost=on_lost,
            )

        return make


async def _cancelled(task: asyncio.Future[object]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
