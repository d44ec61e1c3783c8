"""Owns the executor on other agents: attempts are assigned, and their reports are waited for.

The report is the fence. An attempt ends with the first report of its assignment, whoever gives it:
the agent that took it, or this one where nobody has it. What comes later is refused by the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, TypeVar

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent import config, tasks
from agent.execution import base
from agent.run import effects
from agent.swarm import assignments, offers, reports
from protocol import codec, problems, roster, subjects, swarm

log = structlog.get_logger(__name__)

POLL_S = 2.0
"""How often it is looked whether there is a report, beside what is heard."""
_FIRST_POLL_S = 0.005
ASKED_PATIENCE_S = 5.0
FORCED_PATIENCE_S = 5.0
RETRY_S = 0.5

Warn = Callable[[Literal["info", "warning", "critical"], str, effects.Work], None]
_AWAY = (nats.errors.Error, TimeoutError)
_T = TypeVar("_T")


class _Job:
    """One attempt while it is waited for."""

    def __init__(self, work: effects.Work, watcher: base.Watcher) -> None:
        self.work = work
        self.asked: swarm.StageAssignment | None = None
        """What was, or is about to be, assigned."""
        self.sequence: int | None = None
        """Of the assignment in the queue."""
        self.to_stop = False
        self.taker = ""
        self.alive_at = time.monotonic()
        self.rung = asyncio.Event()
        self.stops: set[asyncio.Task[None]] = set()
        self.settling: set[asyncio.Task[None]] = set()
        """What has to be over before the attempt is."""
        self._watcher = watcher
        self._began = False

    def assign(self, asked: swarm.StageAssignment) -> None:
        """Begin with another assignment."""
        self.asked, self.sequence, self.taker = asked, None, ""
        self.alive_at = time.monotonic()

    async def hear(self, message: Msg) -> None:
        """Take a sign of life."""
        with contextlib.suppress(codec.ProtocolError):
            told = codec.decode(message.data, swarm.AssignmentProgress)
            self.taker, self.alive_at = told.agent, time.monotonic()
            if told.state == "running" and not self._began:
                self._began = True
                self._watcher.began()
            if told.message or told.fraction is not None or told.metrics:
                self._watcher.progress(told.fraction, told.message, told.metrics)

    async def ring(self, _: Msg) -> None:
        """Take note that a report is on its way; only the stream knows whether it counts."""
        self.rung.set()

    def end(self, report: swarm.StageReport) -> base.Outcome:
        """Tell what the report has for the journal, and give the outcome."""
        for noted in report.notes:
            self._watcher.note(noted.fact, noted.details)
        return assignments.outcome(report)


class SwarmExecutor:
    """Runs stages whose placement is `swarm`, on whichever agent takes them."""

    def __init__(
        self,
        agent_id: str,
        nc: Client,
        names: subjects.Subjects,
        queue: offers.Offers,
        settings: config.Swarm,
        *,
        warn: Warn = lambda _severity, _message, _work: None,
    ) -> None:
        self._agent_id = agent_id
        self._nc = nc
        self._names = names
        self._queue = queue
        self._patience_s = settings.take_within_s
        self._warn = warn
        self.forced_patience_s = FORCED_PATIENCE_S
        """How long whoever was told to end an attempt may take to prove that it has."""
        self._reports = reports.Reports(nc, names)
        self._jobs: dict[effects.WorkKey, _Job] = {}

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Have one attempt done by another agent, or find what was done before a restart."""
        job = self._jobs[work.key] = _Job(work, watcher)
        try:
            return await self._reported(job)
        except nats.errors.MaxPayloadError:
            message = "the assignment is larger than a message on this bus may be"
            return base.Failed(problems.Problem("payload_too_large", message))
        except _AWAY as error:
            message = f"the swarm cannot be reached: {type(error).__name__}"
            return base.Failed(problems.Problem("unavailable", message, retryable=True))
        finally:
            del self._jobs[work.key]
            await tasks.end(*job.stops, *job.settling)

    async def _reported(self, job: _Job) -> base.Outcome:
        """Go through the assignments of this work to the first that has not failed already."""
        for name in assignments.ids(job.work):
            if job.to_stop:
                return base.Halted("not_started")
            asked = assignments.assign(name, job.work)
            job.assign(asked)
            async with self._listening(name, job):
                report = await self._insist(functools.partial(self._reports.read, name))
                fresh = report is None
                report = report or await self._waited_for(asked, job)
            # What had failed before was told then; what a lost owner left is not about us.
            if report.state == "succeeded" or (fresh and not _fenced(report, job.work)):
                if job.settling:
                    await asyncio.wait(job.settling)
                return job.end(report)
        raise AssertionError  # pragma: no cover - there is always another id

    @contextlib.asynccontextmanager
    async def _listening(self, name: str, job: _Job) -> AsyncIterator[None]:
        heard = [
            await self._nc.subscribe(self._names.report(name), cb=job.ring),
            await self._nc.subscribe(self._names.assignment_progress(name), cb=job.hear),
        ]
        try:
            yield
        finally:
            for subscription in heard:
                with contextlib.suppress(nats.errors.Error):
                    await subscription.unsubscribe()

    async def _waited_for(self, asked: swarm.StageAssignment, job: _Job) -> swarm.StageReport:
        put = functools.partial(self._queue.put, asked, job.work.traceparent)
        job.sequence = await self._insist(put)
        pause = _FIRST_POLL_S
        while True:
            try:
                async with asyncio.timeout(pause):
                    await job.rung.wait()
                pause = _FIRST_POLL_S
            except TimeoutError:
                pause = min(2 * pause, POLL_S)
            job.rung.clear()
            with contextlib.suppress(*_AWAY):
                report = await self._reports.read(asked.assignment_id)
                if report is not None:
                    return report
                await self._look_for_takers(asked, job)

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask what may be asked twice until it is answered, as long as a taker is waited for."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return await ask()
            except nats.errors.MaxPayloadError:
                raise
            except _AWAY as error:
                if time.monotonic() >= until:
                    raise
                log.warning("swarm.waits", error=str(error) or type(error).__name__)
            await asyncio.sleep(RETRY_S)

    async def _look_for_takers(self, asked: swarm.StageAssignment, job: _Job) -> None:
        """Report an assignment as unavailable that nobody has and nobody could take."""
        if time.monotonic() - job.alive_at < self._patience_s:
            return
        there = await roster.read(self._nc, self._names, dt.datetime.now(dt.UTC))
        if any(_could(card, asked.use) for card in there):
            job.alive_at = time.monotonic()  # it is busy, and will come to it
            return
        message = f"no agent that can do {asked.use!r} has taken the stage"
        self._warn("warning", message, job.work)
        hint = "mlpm agents lists who is there; start one, or let it take work again"
        problem = problems.Problem("unavailable", message, hint=hint, retryable=True)
        await self._settle(asked, base.Failed(problem), job)

    async def _settle(self, asked: swarm.StageAssignment, outcome: base.Outcome, job: _Job) -> None:
        """Answer an assignment ourselves, unless whoever has it was quicker."""
        given = await self._reports.give(assignments.report(asked, self._agent_id, outcome))
        if given and job.sequence is not None:
            await self._queue.withdraw(job.sequence)
        job.rung.set()

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Have whoever took the attempt stop it; `run` ends with the report that follows.

        With `force` it ends shortly in any case, and says what is known.
        """
        job = self._jobs.get(key)
        if job is None:
            return
        job.to_stop = True
        if job.asked is not None:
            job.stops.add(asyncio.create_task(self._stop(job, job.asked, force=force)))

    async def _stop(self, job: _Job, asked: swarm.StageAssignment, *, force: bool) -> None:
        while True:
            try:
                if await self._stopped(job, asked, force=force):
                    return
            except _AWAY as error:
                log.warning("assignment.not_stopped", error=type(error).__name__)
            await asyncio.sleep(RETRY_S)

    async def _stopped(self, job: _Job, asked: swarm.StageAssignment, *, force: bool) -> bool:
        """Ask once; True if the attempt has its report now."""
        try:
            await self._ask_to_stop(asked.assignment_id, force=force)
        except nats.errors.NoRespondersError:
            settling = asyncio.create_task(self._end_unheld(job, asked, force=force))
            job.settling.add(settling)
            await asyncio.shield(settling)  # the report that it gives ends us
        except (nats.errors.TimeoutError, TimeoutError):
            if not force:
                return False
            where = f"on agent {job.taker or 'unknown'}, which has not proved that it stopped"
            await self._settle(asked, base.Halted("forced", where), job)
        else:  # whoever answers may have let it go without a report: then another may take it
            return await self._reports.read(asked.assignment_id) is not None
        return True

    async def _end_unheld(self, job: _Job, asked: swarm.StageAssignment, *, force: bool) -> None:
        """Answer an assignment that nobody has, so that nobody begins it."""
        how = "forced" if job.taker else "not_started"
        where = f"on agent {job.taker}, which is gone" if job.taker else "no agent had it"
        await self._settle(asked, base.Halted(how, where), job)
        # Whoever has begun meanwhile has not seen that report, but hears us now.
        with contextlib.suppress(nats.errors.NoRespondersError):
            await self._ask_to_stop(asked.assignment_id, force=force)

    async def _ask_to_stop(self, name: str, *, force: bool) -> None:
        patience = self.forced_patience_s if force else ASKED_PATIENCE_S
        asked = codec.encode(swarm.AssignmentCancel(name, "cancelled", force))
        await self._nc.request(self._names.assignment_cancel(name), asked, timeout=patience)

    async def recall(self, work: effects.Work) -> None:
        """Have an attempt stopped that a lost agent assigned, if somebody is at it."""
        for name in assignments.ids(work):
            if await self._reports.read(name) is None:
                with contextlib.suppress(*_AWAY):
                    await self._ask_to_stop(name, force=True)
                return

    async def close(self) -> None:
        """Stop waiting; what is assigned goes on, and the next agent finds its report."""
        for job in list(self._jobs.values()):
            await tasks.end(*job.stops)


def _could(card: swarm.AgentCard, use: str) -> bool:
    """Tell whether an agent will come to such an assignment, sooner or later."""
    return use in card.capabilities and card.state == "ready" and card.capacity > 0


def _fenced(report: swarm.StageReport, work: effects.Work) -> bool:
    """Tell whether an assignment was refused because a former owner of the run had made it."""
    refused = report.problem is not None and report.problem.code == "conflict"
    return refused and report.epoch < work.epoch
