"""Owns one assignment while this agent has it: what it tells, and whether it is to stop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent import tasks
from agent.execution import base
from agent.run import effects
from agent.swarm import offers
from protocol import codec, problems, subjects, swarm

log = structlog.get_logger(__name__)

HEARTBEAT_S = 2.0
_NOTES_SHARE = 4
"""All that a stage tells for the journal takes this part of a report at most."""

Stop = Callable[[bool], Awaitable[None]]
"""Stops the attempt; told whether to use force."""


class Held:
    """One assignment from its delivery to its report; the watcher of its attempt."""

    def __init__(
        self,
        taken: offers.Taken,
        asked: swarm.StageAssignment,
        work: effects.Work,
        agent_id: str,
        max_bytes: int,
    ) -> None:
        self.taken = taken
        self.asked = asked
        self.work = work
        self.notes: list[swarm.Noted] = []
        self.cancelled = False
        self.late = False
        """Its deadline has passed."""
        self.report: swarm.StageReport | None = None
        self.over = asyncio.Event()
        """Nothing of it runs any more."""
        self._agent_id = agent_id
        self._state = "taken"
        self._notes_left = max_bytes // _NOTES_SHARE
        self._told: asyncio.Queue[swarm.AssignmentProgress] = asyncio.Queue()

    def began(self) -> None:
        """Tell that the attempt has its place."""
        self._state = "running"
        self._told.put_nowait(self._progress())

    def progress(self, fraction: float | None, message: str, metrics: Mapping[str, float]) -> None:
        """Tell how far it is."""
        told = self._progress()
        self._told.put_nowait(
            msgspec.structs.replace(told, fraction=fraction, message=message, metrics=dict(metrics))
        )

    def note(self, fact: str, details: Mapping[str, Any]) -> None:
        """Keep a fact for the report."""
        noted = swarm.Noted(fact, dict(details))
        size = len(msgspec.json.encode(noted)) + 1  # and what parts it from the next
        if size > self._notes_left:
            log.warning("note.too_large", assignment=self.asked.assignment_id, fact=fact)
            return
        self._notes_left -= size
        self.notes.append(noted)

    @contextlib.asynccontextmanager
    async def heard(self, nc: Client, names: subjects.Subjects, stop: Stop) -> AsyncIterator[None]:
        """Give signs of life, and hear cancellations, while the context lasts."""
        answers: set[asyncio.Task[None]] = set()

        async def hear(message: Msg) -> None:
            answers.add(asyncio.create_task(self._cancel(message, stop), name="cancel"))

        name = self.asked.assignment_id
        subscription = await nc.subscribe(names.assignment_cancel(name), cb=hear)
        await nc.flush()  # whoever cancels from here on is heard, or has left a report before
        telling = asyncio.create_task(self._tell(nc, names.assignment_progress(name)))
        try:
            yield
        finally:
            self.over.set()
            await tasks.end(telling)
            await asyncio.gather(*answers, return_exceptions=True)
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _cancel(self, message: Msg, stop: Stop) -> None:
        try:
            asked = codec.decode(message.data, swarm.AssignmentCancel)
        except codec.ProtocolError as error:
            await message.respond(codec.encode(problems.gather(error.problems)))
            return
        self.cancelled = True
        await stop(asked.force)
        await self.over.wait()
        await message.respond(codec.encode(self._status()))

    def _status(self) -> swarm.AssignmentStatus:
        told = self.report
        how, where = (told.how, told.where) if told else ("", "")
        return swarm.AssignmentStatus(
            self.asked.assignment_id, self._agent_id, stopped=True, how=how, where=where
        )

    async def _tell(self, nc: Client, subject: str) -> None:
        told = self._progress()
        while True:
            with contextlib.suppress(nats.errors.Error):
                await nc.publish(subject, codec.encode(told))
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    told = await self._told.get()
            except TimeoutError:
                told = self._progress()

    def _progress(self) -> swarm.AssignmentProgress:
        state: Any = self._state
        name = self.asked.assignment_id
        return swarm.AssignmentProgress(name, self._agent_id, dt.datetime.now(dt.UTC), state)


def halted(held: Held, outcome: base.Outcome) -> base.Outcome | None:
    """Say what a stopped attempt is to its assignment; None if it is to go back to the queue."""
    if not isinstance(outcome, base.Halted) or held.cancelled:
        return outcome
    if held.late:
        message = "it did not end before its deadline, and was stopped"
        return base.Failed(problems.Problem("deadline_exceeded", message))
    return None
