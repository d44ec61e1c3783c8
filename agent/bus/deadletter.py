"""Owns the dead letters: messages that cannot be used, kept as they came with the reason."""

from __future__ import annotations

import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from protocol import problems, subjects

log = structlog.get_logger()

_MAX_HEADER = 1_000


class DeadLetters:
    """Keeps messages that nobody can use."""

    def __init__(self, js: JetStreamContext, names: subjects.Subjects) -> None:
        self._js = js
        self._names = names

    async def keep(self, message: Msg, problem: problems.Problem) -> None:
        """Store the message with the reason, and only then take it off its stream."""
        headers = dict(message.headers or {})
        headers |= {
            "Dead-Subject": message.subject,
            "Dead-Code": problem.code,
            "Dead-Reason": problem.message[:_MAX_HEADER].replace("\n", " ").replace("\r", " "),
            "Dead-Path": problem.path or "",
        }
        headers.pop("Nats-Msg-Id", None)
        sequence = message.metadata.sequence.stream
        headers["Nats-Msg-Id"] = f"dead-{message.metadata.stream}-{sequence}"
        await self._js.publish(
            self._names.deadletter,
            message.data,
            stream=self._names.deadletter_stream,
            headers=headers,
        )
        await message.term()
        log.warning("message.dead_lettered", subject=message.subject, code=problem.code)
