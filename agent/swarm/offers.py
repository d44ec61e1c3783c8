"""Owns the queue of assignments: put there by whoever wants them done, taken one at a time."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import AsyncIterator, Iterable

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js import errors as js_errors

from agent import tasks
from protocol import codec, subjects, swarm

log = structlog.get_logger(__name__)

SWEEP_S = 1.0
"""How often it is looked at what waits, beside what is heard: a dead agent's work comes back."""
_HEARD_S = 0.1
"""An assignment is heard of before the stream has it; a pull for it waits this long."""
_ANSWER_S = 2.0
_AWAY_S = 0.2
_NOBODY = "503"
_DOUBTFUL = 3
"""Pulls in a row that gave nothing of a subject that has something: then the consumer is asked."""


class Taken:
    """One delivery of an assignment, kept alive until it is answered or handed back."""

    def __init__(self, message: Msg, lease_s: float) -> None:
        self.message = message
        self.sequence = int(message.metadata.sequence.stream)
        self.delivered = int(message.metadata.num_delivered or 1)
        self._lease_s = lease_s
        self._renewed_at = time.monotonic()

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew the lease while the context lasts."""
        keeping = asyncio.create_task(self._keep(), name="keep an assignment")
        try:
            yield
        finally:
            await tasks.end(keeping)

    def renewed_by(self, other: Taken) -> None:
        """Go on with a newer delivery of the same assignment."""
        self.message, self._renewed_at = other.message, other._renewed_at

    async def done(self) -> None:
        """Take the assignment off the queue for good."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self.message.ack_sync(timeout=_ANSWER_S)

    async def hand_back(self) -> None:
        """Let another agent (or this one) take it, unless somebody has it already.

        The broker would take it back from whoever has: it heeds whoever held it before.
        """
        if time.monotonic() - self._renewed_at < self._lease_s:
            with contextlib.suppress(nats.errors.Error):
                await self.message.nak()

    async def _keep(self) -> None:
        """Renew as a request, so that a loss is seen; the report fences, so work goes on then."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            asked_at = time.monotonic()
            try:
                await self.message._client.request(  # noqa: SLF001 - in_progress() awaits no answer
                    self.message.reply, b"+WPI", timeout=self._lease_s / 3
                )
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("assignment.not_renewed", error=type(error).__name__)
            else:
                self._renewed_at = asked_at


class Offers:
    """The queue, with one shared consumer for each capability; nothing is prefetched."""

    def __init__(
        self, nc: Client, names: subjects.Subjects, capabilities: Iterable[str], lease_s: float
    ) -> None:
        self._nc = nc
        self._js = nc.jetstream()
        self._names = names
        self._capabilities = frozenset(capabilities)
        self._lease_s = lease_s
        self._waiting: dict[str, float] = {}
        """Capabilities for which something may wait, with how long a pull is worth."""
        self._rung = asyncio.Event()
        self._consumers: set[str] = set()
        self._in_vain: collections.Counter[str] = collections.Counter()
        """Pulls in a row that gave nothing, by capability."""

    async def put(self, asked: swarm.StageAssignment, traceparent: str | None = None) -> int:
        """Queue an assignment, once; give its place in the stream."""
        headers = {"Nats-Msg-Id": asked.assignment_id}
        if traceparent:
            headers["traceparent"] = traceparent
        ack = await self._js.publish(
            self._names.work(asked.use),
            codec.encode(asked),
            stream=self._names.work_stream,
            headers=headers,
        )
        return int(ack.seq)

    async def withdraw(self, sequence: int) -> None:
        """Take what nobody need do any more out of the queue; it may have left it."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self._js.delete_msg(self._names.work_stream, sequence)

    async def listen(self) -> None:
        """Hear what is put there, and look now and then, until cancelled."""
        heard = await self._nc.subscribe(self._names.all_work, cb=self._hear)
        try:
            while True:
                await self._sweep()
                await asyncio.sleep(SWEEP_S)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await heard.unsubscribe()

    async def wait_rung(self) -> None:
        """Wait until something may be there to take."""
        await self._rung.wait()

    async def take(self) -> Taken | None:
        """Take one assignment, each capability in its turn; None if another was quicker."""
        capability = next(iter(self._waiting), None)
        if capability is None:
            self._rung.clear()
            return None
        message = await self._pull(capability, self._waiting.pop(capability))
        if message is None:
            return None
        self._ring(capability, 0.0)  # there may be more
        return Taken(message, self._lease_s)

    async def _hear(self, message: Msg) -> None:
        self._ring(self._names.read_work(message.subject), _HEARD_S)

    async def _sweep(self) -> None:
        try:
            info = await self._js.stream_info(
                self._names.work_stream, subjects_filter=self._names.all_work
            )
        except (nats.errors.Error, TimeoutError):
            return  # the bus is away; so is what it keeps
        for subject in info.state.subjects or {}:
            capability = self._names.read_work(subject)
            self._ring(capability, 0.0)
            if capability is not None and self._in_vain[capability] >= _DOUBTFUL:
                self._in_vain[capability] = 0
                await self._mend(capability)

    async def _mend(self, capability: str) -> None:
        """Begin a consumer anew that passes over what its subject holds.

        It is rare, and has been seen: the broker's count of what is pending, or its place in
        the stream, is wrong. What was taken meanwhile comes again, and is answered once.
        """
        durable = self._names.work_consumer(capability)
        try:
            if await self._passes_over(self._names.work(capability), durable):
                await self._js.delete_consumer(self._names.work_stream, durable)
                self._consumers.discard(capability)
                log.warning("queue.mended", capability=capability)
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("queue.not_mended", capability=capability, error=type(error).__name__)

    async def _passes_over(self, subject: str, durable: str) -> bool:
        """Tell whether a message was there all the while that its consumer knew of none."""
        stream = self._names.work_stream
        with contextlib.suppress(js_errors.NotFoundError):
            oldest = await self._js.get_msg(stream, seq=1, subject=subject, next=True)
            known = await self._js.consumer_info(stream, durable)
            if not known.num_pending and not known.num_ack_pending:
                await self._js.get_msg(stream, seq=oldest.seq)
                return True
        return False

    def _ring(self, capability: str | None, wait_s: float) -> None:
        if capability in self._capabilities and capability is not None:
            self._waiting[capability] = max(wait_s, self._waiting.get(capability, 0.0))
            self._rung.set()

    async def _pull(self, capability: str, wait_s: float) -> Msg | None:
        durable = self._names.work_consumer(capability)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.work_stream}.{durable}"
        wish = {"batch": 1, "expires": int(wait_s * 1e9)} if wait_s else _AT_ONCE
        try:
            await self._consume(capability, durable)
            inbox = self._nc.new_inbox()
            answers = await self._nc.subscribe(inbox)
            try:
                await self._nc.publish(subject, msgspec.json.encode(wish), reply=inbox)
                message = await answers.next_msg(timeout=wait_s + _ANSWER_S)
            finally:  # once nobody listens, the broker gives nothing to that pull
                await answers.unsubscribe()
        except (nats.errors.Error, TimeoutError):
            self._consumers.discard(capability)  # made anew, should it be gone
            await asyncio.sleep(_AWAY_S)
            return None
        status = (message.headers or {}).get("Status")
        if status == _NOBODY:
            self._consumers.discard(capability)
        self._in_vain[capability] = self._in_vain[capability] + 1 if status else 0
        return None if status else message

    async def _consume(self, capability: str, durable: str) -> None:
        """Make the consumer that all agents share, once it is needed."""
        if capability in self._consumers:
            return
        config = api.ConsumerConfig(
            durable_name=durable,
            filter_subject=self._names.work(capability),
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._lease_s,
            max_ack_pending=-1,
        )
        await self._js.add_consumer(self._names.work_stream, config)
        self._consumers.add(capability)


_AT_ONCE = {"batch": 1, "no_wait": True}
