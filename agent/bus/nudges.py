"""Owns how a command reaches the agent that holds a run: a request on the run's nudge subject."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.run import errors, stimuli
from protocol import problems, subjects

log = structlog.get_logger()

Change = stimuli.CancelAsked | stimuli.ResumeAsked | stimuli.Answered
Take = Callable[[stimuli.Stimulus, str], Awaitable[bool]]


class Refused(Exception):
    """The run's owner refused the command."""

    def __init__(self, problem: problems.Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Told(msgspec.Struct, frozen=True, tag_field="kind"):
    """What is told to the owner of a run."""

    cause: str


class Cancel(Told, frozen=True, tag="cancel"):
    """Stop the run."""

    stimulus: stimuli.CancelAsked


class Resume(Told, frozen=True, tag="resume"):
    """Go on with the run."""

    stimulus: stimuli.ResumeAsked


class Answer(Told, frozen=True, tag="answer"):
    """A gate was answered."""

    stimulus: stimuli.Answered


class Heard(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the owner answers."""

    stored: bool
    problem: problems.Problem | None = None


_KINDS: dict[type[Change], Callable[[str, Any], Told]] = {
    stimuli.CancelAsked: Cancel,
    stimuli.ResumeAsked: Resume,
    stimuli.Answered: Answer,
}
_decoder = msgspec.json.Decoder(Cancel | Resume | Answer)


class Nudges:
    """Sends commands to owners, and listens as one."""

    def __init__(self, nc: Client, names: subjects.Subjects, timeout_s: float = 2.0) -> None:
        self._nc = nc
        self._names = names
        self._timeout_s = timeout_s

    async def tell(self, run_id: str, change: Change, cause: str) -> bool:
        """Give the command to the run's owner; say whether somebody owns it and stored it.

        Raises Refused if the owner says that the run's state does not allow it.
        """
        told = _KINDS[type(change)](cause, change)
        try:
            reply = await self._nc.request(
                self._names.nudge(run_id), msgspec.json.encode(told), timeout=self._timeout_s
            )
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            return False
        heard = msgspec.json.decode(reply.data, type=Heard)
        if heard.problem is not None:
            raise Refused(heard.problem)
        return heard.stored

    @contextlib.asynccontextmanager
    async def listen(self, run_id: str, take: Take) -> AsyncIterator[None]:
        """Take commands for a run that is held here, while the context lasts."""

        async def hear(message: Msg) -> None:
            try:
                told = _decoder.decode(message.data)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                log.warning("nudge.unreadable", run=run_id, error=str(error)[:200])
                return
            try:
                heard = Heard(await take(told.stimulus, told.cause))
            except errors.Refused as refused:
                heard = Heard(stored=False, problem=refused.problem)
            if message.reply:
                await message.respond(msgspec.json.encode(heard))

        subscription = await self._nc.subscribe(self._names.nudge(run_id), cb=hear)
        try:
            yield
        finally:
            await subscription.unsubscribe()
