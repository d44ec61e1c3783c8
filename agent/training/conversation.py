"""Owns the talk with a specialist about one training: asked once, answered many times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from agent import config
from protocol import problems, subjects, training

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

log = structlog.get_logger(__name__)

NO_RESPONDERS = "503"


class TrainingError(Exception):
    """No model came of it; `problem` says why, and whether asking again may help."""

    def __init__(self, problem: problems.Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Unavailable(TrainingError):
    """No specialist answered, or the one that did has fallen silent."""

    def __init__(self, message: str) -> None:
        super().__init__(problems.Problem(code="unavailable", message=message, retryable=True))


class Conversation:
    """One training, asked for as often as need be; every answer comes to the same inbox."""

    def __init__(
        self,
        nats: Client,
        names: subjects.Subjects,
        request: training.TrainingRequest,
        settings: config.Specialist,
        hear: Callable[[training.TrainingAccepted | training.TrainingProgress], None],
        *,
        traceparent: str | None = None,
    ) -> None:
        self._nats = nats
        self._names = names
        self._request = request
        self._headers = {"traceparent": traceparent} if traceparent else None
        self._settings = settings
        self._hear = hear
        self._inbox = nats.new_inbox()
        self._replies: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Any = None
        self.specialist = ""
        """Who accepted it last; empty before."""
        self._heard_at: float | None = None

    @property
    def silent_s(self) -> float | None:
        """Give how long ago the last sign of life came; None if none ever did."""
        return None if self._heard_at is None else time.monotonic() - self._heard_at

    async def open(self) -> None:
        """Listen for answers."""
        self._subscription = await self._nats.subscribe(self._inbox, cb=self._replies.put)

    async def close(self) -> None:
        """Listen no more."""
        if self._subscription is not None and not self._nats.is_closed:
            await self._subscription.unsubscribe()

    async def ask(self) -> training.TrainingResult:
        """Ask, or ask again, and follow the training to its end; raise TrainingError."""
        data = msgspec.json.encode(self._request)
        subject = self._names.training_request
        await self._nats.publish(subject, data, reply=self._inbox, headers=self._headers)
        settings = self._settings
        reply = await self._next(settings.accept_timeout_s, "accepted the training")
        while True:
            if isinstance(reply, training.TrainingFailed):
                raise TrainingError(reply.problem)
            if isinstance(reply, training.TrainingResult):
                return reply
            self._take(reply)
            patience = settings.heartbeat_s * settings.missed_heartbeats
            reply = await self._next(patience, "gave a sign of life")

    def _take(self, reply: training.TrainingAccepted | training.TrainingProgress) -> None:
        if isinstance(reply, training.TrainingAccepted):
            self.specialist = reply.specialist
        self._hear(reply)

    async def _next(self, patience_s: float, expected: str) -> training.TrainingReply:
        """Wait for the next answer that is about this training and this epoch."""
        try:
            async with asyncio.timeout(patience_s):
                while True:
                    reply = self._decoded(await self._replies.get())
                    if reply is not None:
                        self._heard_at = time.monotonic()
                        return reply
        except TimeoutError:
            who = self.specialist or "no specialist"
            negated = "has not" if self.specialist else "has"
            message = f"{who} {negated} {expected} within {patience_s:g} s"
            raise Unavailable(message) from None

    def _decoded(self, message: Msg) -> training.TrainingReply | None:
        if (message.headers or {}).get("Status") == NO_RESPONDERS:
            raise Unavailable("no specialist listens")
        try:
            reply = msgspec.json.decode(message.data, type=training.TrainingReply)
        except msgspec.DecodeError as error:
            log.warning("training.reply_ignored", reason=str(error))
            return None
        return None if self._stale(reply) else reply

    def _stale(self, reply: training.TrainingReply) -> bool:
        late = isinstance(reply, training.TrainingResult) and reply.epoch < self._request.epoch
        other = reply.training_id not in {"", self._request.training_id}
        if late or other:
            log.warning("training.reply_ignored", training=reply.training_id, late=late)
        return late or other


async def wait_stopped(
    nats: Client, names: subjects.Subjects, training_id: str, reason: str, patience_s: float
) -> training.TrainingStatus | None:
    """Ask every specialist to stop a training; give the proof that it has, or None in time.

    The one that had it decides. Where all say they don't know it, the last of them is the proof,
    once the others had `UNKNOWN_WAIT_S` to answer.
    """
    inbox = nats.new_inbox()
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await nats.subscribe(inbox, cb=answers.put)
    data = msgspec.json.encode(training.TrainingCancel(training_id, reason))
    unknown: training.TrainingStatus | None = None
    try:
        await nats.publish(names.training_cancel, data, reply=inbox)
        until = time.monotonic() + patience_s
        while (left := until - time.monotonic()) > 0:
            async with asyncio.timeout(left):
                message = await answers.get()
            if (message.headers or {}).get("Status") == NO_RESPONDERS:
                return None
            status = msgspec.json.decode(message.data, type=training.TrainingStatus)
            if status.stopped and status.state != "unknown":
                return status
            if status.stopped and unknown is None:
                unknown = status
                until = min(until, time.monotonic() + UNKNOWN_WAIT_S)
    except TimeoutError:
        return unknown
    finally:
        await subscription.unsubscribe()
    return unknown


UNKNOWN_WAIT_S = 1.0
