"""Owns the dead letters: messages that cannot be used, kept as they came with the reason."""

from __future__ import annotations

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from protocol import problems, subjects

log = structlog.get_logger()

_MAX_HEADER = 1_000
_SLACK = 256
"""For the header's own frame, and what the client adds to it."""


class DeadLetters:
    """Keeps messages that nobody can use."""

    def __init__(self, nc: Client, names: subjects.Subjects) -> None:
        self._js = nc.jetstream()
        self._names = names
        self._max_bytes = nc.max_payload - _SLACK

    async def keep(self, message: Msg, problem: problems.Problem) -> None:
        """Store the message with the reason, and only then take it off its stream.

        What would not fit beside the reason is cut off, and its whole size told.
        """
        # What a header asks of the broker was asked of another stream.
        given = (message.headers or {}).items()
        headers = {k: v for k, v in given if not k.lower().startswith("nats-")}
        headers |= {
            "Dead-Subject": message.subject,
            "Dead-Code": problem.code,
            "Dead-Reason": problem.message[:_MAX_HEADER].replace("\n", " ").replace("\r", " "),
            "Dead-Path": problem.path or "",
        }
        sequence = message.metadata.sequence.stream
        headers["Nats-Msg-Id"] = f"dead-{message.metadata.stream}-{sequence}"
        room = self._max_bytes - sum(len(f"{k}: {v}\r\n".encode()) for k, v in headers.items())
        if len(message.data) > room:
            headers["Dead-Bytes"] = str(len(message.data))
        await self._js.publish(
            self._names.deadletter,
            message.data[: max(0, room)],
            stream=self._names.deadletter_stream,
            headers=headers,
        )
        await message.term()
        log.warning("message.dead_lettered", subject=message.subject, code=problem.code)
