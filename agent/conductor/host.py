"""Owns the runs this agent holds: takes their tickets, conducts them, lets them go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from agent import catalog, tasks
from agent.bus import announce, journal, nudges, tickets
from agent.conductor import conductor, inheritance, ledger, losses, scribe
from agent.execution import base
from agent.run import effects, stimuli
from protocol import problems, swarm

log = structlog.get_logger()

RETRY_AFTER_S = 5.0
"""How long a run rests after a defect of ours stopped its conductor."""
FIRST_LOOK_S = 0.02
CLEAN_UP_S = 10.0
"""How long a conductor may take to store what it knows before it is asked again to end."""
NAMED = 5
"""How many of the stages at work are named."""
MOST_LOOKS = 20
"""How often a ticket is looked at whose run has no journal, or one that cannot be read."""


class _NotYet(Exception):
    """The run may have ended its agents, as may another that was begun a moment ago."""


class Host:
    """Conducts up to `max_active` runs at a time, each under a ticket from the queue."""

    def __init__(
        self,
        agent_id: str,
        stages: catalog.Catalog,
        *,
        journals: journal.Journal,
        queue: tickets.Tickets,
        nudge: nudges.Nudges,
        executors: Mapping[effects.Placement, base.Executor],
        announcer: announce.Announcer,
        recall: conductor.Recall,
        survivors: inheritance.Survivors,
        clock: scribe.Clock,
        max_active: int,
        max_losses: int,
        window: int,
        max_commit_bytes: int,
    ) -> None:
        self._agent_id = agent_id
        self._stages = stages
        self._journals = journals
        self._queue = queue
        self._nudges = nudge
        self._executors = executors
        self._announcer = announcer
        self._recall = recall
        self._survivors = survivors
        self._clock = clock
        self._max_commit_bytes = max_commit_bytes
        self._window = window
        self._slots = asyncio.Semaphore(max_active)
        self._max_losses = max_losses
        self._trials = losses.Trials()
        self.unreadable: set[str] = set()
        """Runs that nobody here can go on with; they are left alone until this agent restarts."""
        self._holding: dict[str, tickets.Ticket] = {}
        self._active: dict[str, conductor.Conductor] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def load(self) -> int:
        """Count the runs held now."""
        return len(self._tasks)

    def held(self, run_id: str) -> conductor.Conductor | None:
        """Give the conductor of a run, if this agent holds it."""
        return self._active.get(run_id)

    def widen(self, window: int) -> None:
        """Have so many elements of a fan-out at a time handed to the executors from now on."""
        self._window = window
        for conducting in self._active.values():
            conducting.machine.window = window

    async def tell(self, run_id: str, stimulus: stimuli.Stimulus, cause: str) -> bool:
        """Let something happen to a run if it is held here; say whether it was stored."""
        held = self._active.get(run_id)
        return held is not None and await held.tell(stimulus, cause)

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
        await tasks.end(*self._tasks, again_s=CLEAN_UP_S)

    def _released(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()

    async def _hold(self, ticket: tickets.Ticket) -> None:
        first = self._holding.setdefault(ticket.run_id, ticket)
        if first is not ticket:
            await self._second(ticket, first)
            return
        try:
            await self._hold_first(ticket)
        finally:
            del self._holding[ticket.run_id]
            self._trials.over(ticket.run_id)

    async def _second(self, ticket: tickets.Ticket, first: tickets.Ticket) -> None:
        """Leave it at the first ticket of a run; renewing that renews a second delivery of it."""
        if ticket.number == first.number:
            await ticket.forget()
        else:
            await ticket.hand_back(_rest_s(ticket))

    async def _hold_first(self, ticket: tickets.Ticket) -> None:
        run_id = ticket.run_id
        try:
            position = await self._conduct(ticket)
            await ticket.done()
            await self._look_again(run_id, position)
        except asyncio.CancelledError:
            await ticket.hand_back(0)
            raise
        except conductor.OwnershipLost:
            log.warning("run.lost", run=run_id)
            await ticket.forget()
        except ledger.RunNotFound:
            await self._without_run(ticket)
        except _NotYet:
            await ticket.hand_back(RETRY_AFTER_S)
        except ledger.Unreadable as broken:
            log.error("journal.unreadable", run=run_id, reason=str(broken))  # noqa: TRY400 - it says it all
            await self._unread(ticket, broken)
        except Exception:  # the run is safe in its journal; the agent goes on with the others
            log.exception("run.broke", run=run_id)
            await ticket.hand_back(RETRY_AFTER_S)

    async def _without_run(self, ticket: tickets.Ticket) -> None:
        """Wait for the journal, which is stored beside the ticket; in vain, if that failed."""
        log.warning("ticket.without_run", run=ticket.run_id, delivered=ticket.delivered)
        await self._rest(ticket)

    async def _unread(self, ticket: tickets.Ticket, broken: ledger.Unreadable) -> None:
        """Look again later: another agent may know what is new there. Then tell somebody."""
        if ticket.delivered > MOST_LOOKS and ticket.run_id not in self.unreadable:
            self.unreadable.add(ticket.run_id)
            alert = swarm.Alert("critical", self._clock(), str(broken), ticket.run_id)
            await self._announcer.alert(alert)
        await self._rest(ticket)

    async def _rest(self, ticket: tickets.Ticket) -> None:
        """Look again later, but not for ever."""
        if ticket.delivered > MOST_LOOKS:
            await ticket.done()
        else:
            await ticket.hand_back(_rest_s(ticket))

    async def _look_again(self, run_id: str, settled: scribe.Position | None) -> None:
        """Queue a run again that something brought on while its ticket was being given back."""
        last = await self._journals.last(run_id)
        if last is None or (settled is not None and last[0] == settled.sequence):
            return
        run = (await ledger.load(run_id, self._journals, self._stages)).machine.state
        if not run.over and not run.parked:
            await self._queue.put(run_id, run.options.priority, f"again-{last[0]}")

    async def _conduct(self, ticket: tickets.Ticket) -> scribe.Position | None:
        """Conduct a run to its end, or until it is parked; give where its journal ends then.

        None if the run was about to be parked and something happened to it after all.
        """
        while True:
            book = await ledger.load(ticket.run_id, self._journals, self._stages)
            book.machine.window = self._window
            run = book.machine.state
            # The same request, come again with another priority, makes no second owner.
            if run.over or ticket.priority != run.options.priority:
                return book.position
            epoch = book.epoch + 1
            problem = self._verdict(book)
            try:
                return await self._conduct_from(book, ticket, problem)
            except conductor.OwnershipLost:
                if ticket.lost or await self._taken_over(ticket.run_id, epoch):
                    raise
                log.info("run.read_again", run=ticket.run_id)

    def _verdict(self, book: ledger.Ledger) -> problems.Problem | None:
        """Say why a run is only ended; raise _NotYet while another one has to show itself."""
        now, run = self._clock(), book.machine.state
        at_work = [run.spec(unit).id for unit in run.running]
        problem = book.losses.problem(now, self._max_losses, list(dict.fromkeys(at_work))[:NAMED])
        if problem is None and book.losses.holds:
            suspect = book.losses.suspect(now)
            time = asyncio.get_running_loop().time()
            if not self._trials.may_begin(run.run_id, time, suspect=suspect):
                raise _NotYet
            log.warning("run.lost_before", run=run.run_id, times=len(book.losses.holds))
        return problem

    async def _taken_over(self, run_id: str, epoch: int) -> bool:
        """Tell a run that another agent took from one whose journal a command was added to."""
        run = (await ledger.load(run_id, self._journals, self._stages)).machine.state
        return run.epoch >= epoch and (run.epoch, run.owner) != (epoch, self._agent_id)

    async def _conduct_from(
        self, book: ledger.Ledger, ticket: tickets.Ticket, problem: problems.Problem | None
    ) -> scribe.Position | None:
        if book.epoch:  # whoever held it may have died between storing and announcing
            await self._announcer.commit(book.last, book.machine.state.accepted.traceparent)
        kept = await inheritance.look(book, problem, self._survivors, self._clock())
        conducting = conductor.Conductor(
            book,
            self._scribe(book),
            self._executors,
            announcer=self._announcer,
            clock=self._clock,
            recall=self._recall,
            careful=ticket.delivered > 1,
        )
        self._active[ticket.run_id] = conducting
        lost = asyncio.ensure_future(ticket.wait_lost())
        conduct: asyncio.Future[conductor.Outcome] | None = None
        try:
            # Whoever finds us in the journal must find us listening: so first this, then that.
            async with self._nudges.listen(ticket.run_id, conducting.tell):
                conduct = asyncio.ensure_future(conducting.conduct(self._agent_id, problem, kept))
                await asyncio.wait({conduct, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not conduct.done():  # the lease is over: somebody else may own the run already
                    log.warning("lease.expired", run=ticket.run_id)
                    conducting.scribe.abandon()
                    raise conductor.OwnershipLost(ticket.run_id)
                await conduct
                state = conducting.machine.state
                return conducting.scribe.position if state.over or state.parked else None
        finally:
            for task in (conduct, lost):
                if task is not None:
                    await tasks.end(task, again_s=CLEAN_UP_S)
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
                traceparent=book.machine.state.accepted.traceparent,
            )

        return make


def _rest_s(ticket: tickets.Ticket) -> float:
    """Say how long a ticket rests that is of no use yet: longer each time."""
    return min(FIRST_LOOK_S * 2**ticket.delivered, RETRY_AFTER_S)
