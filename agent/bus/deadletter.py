"""Owns the dead letters: messages that cannot be used, kept as they came with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from protocol import problems, subjects

log = structlog.get_logger()

SUBJECT, CODE, REASON, PATH = "Dead-Subject", "Dead-Code", "Dead-Reason", "Dead-Path"
BYTES = "Dead-Bytes"
"""The size of a body that is not there as a whole."""
HEADERS = "Dead-Headers"
"""How many of the headers that it came with are not there."""
OURS = ("dead-", "nats-")
"""Headers of these names are ours, or ask something of the stream that a message was put in."""

_MAX_HEADER = 1_000
_MAX_HEADERS = 16_384
"""Of all that it came with; a server hangs up on more than a message may have."""
_SLACK = 256
"""For the header's own frame, and what the client adds to it."""
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


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
        headers = _given(message.headers or {}) | {
            SUBJECT: _line(message.subject),
            CODE: problem.code,
            REASON: _line(problem.message),
            PATH: _line(problem.path or ""),
        }
        sequence = message.metadata.sequence.stream
        headers["Nats-Msg-Id"] = f"dead-{message.metadata.stream}-{sequence}"
        room = self._max_bytes - _size(headers)
        if len(message.data) > room:
            headers[BYTES] = str(len(message.data))
        await self._js.publish(
            self._names.deadletter,
            message.data[: max(0, room)],
            stream=self._names.deadletter_stream,
            headers=headers,
        )
        await message.term()
        log.warning("message.dead_lettered", subject=message.subject, code=problem.code)


def _given(headers: Mapping[str, str]) -> dict[str, str]:
    """Choose what can be sent on of the headers that a message came with, and count the rest."""
    theirs = [(k, v) for k, v in headers.items() if not k.lower().startswith(OURS)]
    kept: dict[str, str] = {}
    room = _MAX_HEADERS
    for name, value in theirs:
        if _can_be_sent(name, value) and (size := _size({name: value})) <= room:
            kept[name] = value
            room -= size
    lost = len(theirs) - len(kept)
    return kept | ({HEADERS: str(lost)} if lost else {})


def _can_be_sent(name: str, value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return _NAME.fullmatch(name) is not None


def _size(headers: Mapping[str, str]) -> int:
    return sum(len(f"{name}: {value}\r\n".encode()) for name, value in headers.items())


def _line(text: str) -> str:
    """Write a text of any length and kind as the value of a header."""
    one = re.sub(r"[\x00-\x1f\x7f]", " ", text[:_MAX_HEADER])
    return one.encode(errors="replace").decode()
