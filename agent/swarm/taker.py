"""Owns the taking side: assignments come off the queue, run here, and are answered once."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from collections.abc import Callable, Mapping

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client

from agent import catalog, tasks
from agent.bus import deadletter, endpoints, journal
from agent.conductor import outcomes
from agent.execution import base
from agent.run import effects
from agent.swarm import assignments, fitness, held, offers, reports, stance
from protocol import codec, problems, subjects, swarm, wire

log = structlog.get_logger(__name__)

MOST_DELIVERIES = 10
"""An assignment that was taken so often and never answered is taken to harm its takers."""
RETRY_S = 0.5
CLEAN_UP_S = 10.0

_AWAY = (nats.errors.Error, journal.Unavailable, TimeoutError)


class _Named(msgspec.Struct):
    """What even an assignment that cannot be used may say: whom to answer."""

    assignment_id: wire.Id


class Taker:
    """Takes what this agent can do and has room for."""

    def __init__(
        self,
        agent_id: str,
        nc: Client,
        names: subjects.Subjects,
        *,
        stages: catalog.Catalog,
        queue: offers.Offers,
        executors: Mapping[effects.Placement, base.Executor],
        fit: fitness.Fitness,
        taking: stance.Stance,
        max_bytes: int,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._agent_id = agent_id
        self._nc = nc
        self._names = names
        self._stages = stages
        self._queue = queue
        self._executors = executors
        self._fitness = fit
        self._stance = taking
        self._max_bytes = max_bytes
        self._clock = clock
        self._reports = reports.Reports(nc, names)
        self._dead = deadletter.DeadLetters(nc, names)
        self._held: dict[str, held.Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._closing = False

    async def serve(self) -> None:
        """Take assignments until cancelled; those that are held go on."""
        while True:
            await self._queue.wait_rung()
            await self._stance.wait(lambda: self._stance.has_room)
            taken = await self._queue.take()
            if taken is None:
                continue
            task = asyncio.create_task(self._survive(taken), name="assignment")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0)  # it counts as work before there is room for another

    async def close(self) -> None:
        """Stop what is held and hand it back to the queue."""
        self._closing = True
        for one in list(self._held.values()):
            await self._stop(one, force=True)
        _, left = await asyncio.wait(self._tasks, timeout=CLEAN_UP_S) if self._tasks else ([], [])
        await tasks.end(*left)

    async def _survive(self, taken: offers.Taken) -> None:
        """Deal with a delivery; one that could not be dealt with comes again."""
        try:
            with self._stance.working():
                await self._deal_with(taken)
        except _AWAY as error:
            log.warning("assignment.let_go", error=type(error).__name__)
        except Exception:  # one assignment must not stop the others
            log.exception("assignment.broke")

    async def _deal_with(self, taken: offers.Taken) -> None:
        message = taken.message
        sender = endpoints.caller(message.headers)
        try:
            asked = codec.decode(
                message.data,
                swarm.StageAssignment,
                sender.content_type,
                max_bytes=self._max_bytes,
            )
        except codec.ProtocolError as error:
            await self._put_aside(taken, problems.gather(error.problems), _name(message.data))
            return
        if (known := self._held.get(asked.assignment_id)) is not None:
            await _again(known, taken)
        elif taken.delivered > MOST_DELIVERIES:
            text = f"it was taken {taken.delivered - 1} times and never answered"
            await self._put_aside(taken, problems.Problem("worker_lost", text), asked)
        else:
            await self._hold(taken, asked, sender.traceparent)

    async def _put_aside(
        self,
        taken: offers.Taken,
        problem: problems.Problem,
        asked: swarm.StageAssignment | None,
    ) -> None:
        """Keep a poisonous assignment among the dead letters; who waits for it is answered."""
        if asked is not None:
            await self._reports.give(
                assignments.report(asked, self._agent_id, base.Failed(problem))
            )
        await self._dead.keep(taken.message, problem)

    async def _hold(
        self, taken: offers.Taken, asked: swarm.StageAssignment, traceparent: str | None
    ) -> None:
        capability = self._names.read_work(taken.message.subject) or ""
        work = assignments.work_of(
            asked, self._placement(capability), next(self._numbers), traceparent
        )
        one = held.Held(taken, asked, work, self._agent_id, self._max_bytes)
        self._held[asked.assignment_id] = one
        try:
            async with (
                taken.kept(),
                one.heard(self._nc, self._names, lambda force: self._stop(one, force=force)),
            ):
                await self._answer(one, capability)
        finally:
            del self._held[asked.assignment_id]

    def _placement(self, capability: str) -> effects.Placement:
        return "training" if self._stages.definition(capability).delegated else "ray"

    async def _answer(self, one: held.Held, capability: str) -> None:
        """Do what was not answered yet, report it, and only then take it off the queue."""
        if await self._reports.read(one.asked.assignment_id) is not None:
            await one.taken.done()
            return
        log.info("assignment.taken", assignment=one.asked.assignment_id, use=one.asked.use)
        outcome = held.halted(one, await self._outcome(one, capability))
        if outcome is None:
            await one.taken.hand_back()
            return
        one.report = await self._given(self._report(one, outcome))
        await one.taken.done()
        log.info("assignment.reported", assignment=one.asked.assignment_id, state=one.report.state)

    async def _outcome(self, one: held.Held, capability: str) -> base.Outcome:
        problem = await self._fitness.problem(one.asked, capability)
        if problem is not None:
            return base.Failed(problem)
        if one.cancelled or self._closing:
            return base.Halted("not_started")
        deadline = self._at_deadline(one)
        try:
            return await self._executors[one.work.placement].run(one.work, one)
        except Exception:  # a defect of an executor is not the assignment's fault
            log.exception("attempt.broke", assignment=one.asked.assignment_id)
            return base.Failed(problems.Problem("internal", "the executor broke", retryable=True))
        finally:
            await tasks.end(*deadline)

    def _at_deadline(self, one: held.Held) -> list[asyncio.Task[None]]:
        if one.asked.deadline is None:
            return []
        return [asyncio.create_task(self._expire(one, one.asked.deadline), name="deadline")]

    async def _expire(self, one: held.Held, deadline: dt.datetime) -> None:
        await asyncio.sleep(max(0.0, (deadline - self._clock()).total_seconds()))
        one.late = True
        await self._stop(one, force=True)

    async def _stop(self, one: held.Held, *, force: bool) -> None:
        await self._executors[one.work.placement].stop(one.work.key, force=force)

    def _report(self, one: held.Held, outcome: base.Outcome) -> swarm.StageReport:
        room = self._max_bytes - len(msgspec.json.encode(one.notes))
        fitting = outcomes.storable(outcome, room)
        return assignments.report(one.asked, self._agent_id, fitting, one.notes)

    async def _given(self, report: swarm.StageReport) -> swarm.StageReport:
        """Give the report, however long the bus is away; a smaller one if it takes no larger."""
        while True:
            try:
                await self._reports.give(report)
            except nats.errors.MaxPayloadError as error:
                log.warning("report.too_large", assignment=report.assignment_id, error=str(error))
                report = _smaller(report)
            except _AWAY as error:
                reason = str(error) or type(error).__name__
                log.warning("report.waits", assignment=report.assignment_id, error=reason)
            else:
                return report
            await asyncio.sleep(RETRY_S)


async def _again(known: held.Held, taken: offers.Taken) -> None:
    """Take note of a delivery of what is held already: our lease ran out, or it was put twice."""
    if taken.sequence == known.taken.sequence:
        known.taken.renewed_by(taken)
    else:
        await taken.done()


def _smaller(report: swarm.StageReport) -> swarm.StageReport:
    """Leave out what a report can do without; where there is no more of that, say that it failed.

    A server may allow less now than it did when this agent came to it.
    """
    if report.notes:
        return msgspec.structs.replace(report, notes=[])
    message = "the report is larger than a message on this bus may be"
    return swarm.StageReport(
        report.assignment_id,
        report.agent,
        "failed",
        attempt=report.attempt,
        epoch=report.epoch,
        problem=problems.Problem("payload_too_large", message),
    )


def _name(data: bytes) -> swarm.StageAssignment | None:
    try:
        return swarm.StageAssignment(
            msgspec.json.decode(data, type=_Named).assignment_id, use="unknown"
        )
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
