"""Owns the journal stream: guarded appends, and exact reads, of the commits of every run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext

from protocol import chain, following, subjects

log = structlog.get_logger()

_WRONG_LAST_SEQUENCE = 10071
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_MESSAGE_ID = "Nats-Msg-Id"
_TIMEOUT_S = 3.0
"""A stream that cannot be written does not answer; who asked waits a little longer than this."""


class Fenced(Exception):
    """Somebody else has appended to the run's journal: the appender's view of it is stale."""

    def __init__(self, run_id: str, expected: int) -> None:
        super().__init__(f"the journal of run {run_id!r} has moved on from sequence {expected}")
        self.run_id = run_id
        self.expected = expected


class Unavailable(Exception):
    """The journal cannot be reached; nothing is known to be lost or stored."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the journal cannot be reached: {reason}")


class Journal:
    """Appends and reads commits."""

    def __init__(self, nc: Client, names: subjects.Subjects) -> None:
        self._nc = nc
        self._js: JetStreamContext = nc.jetstream(timeout=_TIMEOUT_S)
        self._names = names

    async def append(self, run_id: str, data: bytes, *, expected: int) -> int:
        """Append a commit after sequence `expected` of the run's subject (0: the first).

        Raises Fenced if the subject has moved on, Unavailable if no answer came, MaxPayloadError
        if it can never be stored. An append whose acknowledgement was lost can be repeated. It is
        recognised by its content alone: a replicated stream looks at the message id before the
        expected sequence, so two owners with one id would both be told that theirs is stored.
        """
        headers = {_EXPECTED: str(expected), _MESSAGE_ID: f"{run_id}-{chain.digest(data)}"}
        try:
            ack = await self._js.publish(
                self._names.run_journal(run_id),
                data,
                stream=self._names.journal_stream,
                headers=headers,
            )
        except nats.js.errors.APIError as error:
            if error.err_code != _WRONG_LAST_SEQUENCE:
                raise Unavailable(str(error.description)) from error
            return await self._already_stored(run_id, data, expected)
        except nats.errors.MaxPayloadError:
            raise
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(type(error).__name__) from error
        return int(ack.seq)

    async def _already_stored(self, run_id: str, data: bytes, expected: int) -> int:
        """Tell a lost acknowledgement from a fence: is the last commit the very one?"""
        last = await self.last(run_id)
        if last is not None and last[1] == data:
            return last[0]
        raise Fenced(run_id, expected)

    async def last(self, run_id: str) -> tuple[int, bytes] | None:
        """Give the last commit as (sequence, bytes), or None."""
        try:
            message = await self._js.get_last_msg(
                self._names.journal_stream, self._names.run_journal(run_id), direct=True
            )
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(type(error).__name__) from error
        return int(message.seq or 0), message.data or b""

    async def first(self, run_id: str) -> bytes | None:
        """Give the first commit, or None."""
        subject = self._names.run_journal(run_id)
        try:
            message = await self._js.get_msg(
                self._names.journal_stream, seq=1, subject=subject, direct=True, next=True
            )
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(type(error).__name__) from error
        return message.data or b""

    async def read(self, run_id: str) -> list[tuple[int, bytes]]:
        """Give all commits of a run as (sequence, bytes), first to last."""
        subject = self._names.run_journal(run_id)
        found: list[tuple[int, bytes]] = []
        try:
            while more := await following.batch(
                self._nc, self._names, subject, found[-1][0] + 1 if found else 1
            ):
                found += [(raw.sequence, raw.data) for raw in more]
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(type(error).__name__) from error
        return found

    async def watch(
        self,
        take: Callable[[str, bytes], Awaitable[None]],
        caught_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Hand every commit of every run over, from the stream's start and on, until cancelled.

        What begins, ends or parks a run comes at once, the rest within a second.
        """
        names = self._names
        reading = following.commits(
            self._nc,
            names,
            names.all_journals,
            [names.events_of(scope="run"), names.events_of(kind="approval_requested")],
            caught_up=caught_up,
        )
        async for raw in reading:
            run_id = names.read_journal(raw.subject)
            if run_id is not None:
                await take(run_id, raw.data)
