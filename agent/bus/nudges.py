"""Owns how a command reaches the agent that holds a run: a request on the run's nudge subject."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.run import stimuli
from protocol import problems, subjects

Feed = Callable[[stimuli.Stimulus, str], None]


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


class Answer(Told, frozen=True, tag="answer"):
    """A gate was answered."""

    stimulus: stimuli.Answered


_decoder = msgspec.json.Decoder(Cancel | Answer)


class Nudges:
    """Sends commands to owners, and listens as one."""

    def __init__(self, nc: Client, names: subjects.Subjects, timeout_s: float = 2.0) -> None:
        self._nc = nc
        self._names = names
        self._timeout_s = timeout_s

    async def tell(self, run_id: str, told: Cancel | Answer) -> bool:
        """Give the command to the run's owner; say whether somebody owns it and took it.

        Raises Refused if the owner says that the run's state does not allow it.
        """
        try:
            reply = await self._nc.request(
                self._names.nudge(run_id), msgspec.json.encode(told), timeout=self._timeout_s
            )
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            return False
        if reply.data:
            raise Refused(msgspec.json.decode(reply.data, type=problems.Problem))
        return True

    @contextlib.asynccontextmanager
    async def listen(self, run_id: str, feed: Feed) -> AsyncIterator[None]:
        """Take commands for a run that is held here, while the context lasts."""

        async def take(message: Msg) -> None:
            told = _decoder.decode(message.data)
            try:
                feed(told.stimulus, told.cause)
            except Exception as error:
                problem = getattr(error, "problem", None)
                if problem is None:
                    raise
                await message.respond(msgspec.json.encode(problem))
            else:
                await message.respond(b"")

        subscription = await self._nc.subscribe(self._names.nudge(run_id), cb=take)
        try:
            yield
        finally:
            await subscription.unsubscribe()
