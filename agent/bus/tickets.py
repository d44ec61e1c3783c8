"""Owns the queue of accepted runs: one ticket a run, held by one agent and kept alive by it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext, api

from agent import tasks
from protocol import subjects

log = structlog.get_logger()

PRIORITIES = range(9, -1, -1)
"""Highest first."""
_PULL_S = 5.0
"""How long one waiting pull is open; a broker that came back is noticed within this."""
_AWAY_S = 0.2
_NO_RESPONDERS = "503"
_SECOND_TICKET = 10077
"""The error code of a stream that refuses a message because its subject has one."""


class Ticket:
    """The right to conduct a run, for as long as it is kept alive."""

    def __init__(self, run_id: str, message: Msg, lease_s: float) -> None:
        self.run_id = run_id
        self.delivered = int(message.metadata.num_delivered or 1)
        self._message = message
        self._lease_s = lease_s
        self._lost = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep(), name=f"ticket {run_id}")

    @property
    def lost(self) -> bool:
        """Tell whether somebody else may have it by now."""
        return self._lost.is_set()

    async def wait_lost(self) -> None:
        """Wait until the ticket could not be renewed for a whole lease."""
        await self._lost.wait()

    async def done(self) -> None:
        """Take the run off the queue for good."""
        await self._stop()
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self._message.ack_sync(timeout=self._lease_s)

    async def hand_back(self, delay_s: float) -> None:
        """Let another agent (or this one) take the run, after a while."""
        await self._stop()
        with contextlib.suppress(nats.errors.Error):
            await self._message.nak(delay=delay_s or None)

    async def forget(self) -> None:
        """Stop renewing a ticket that somebody else holds by now."""
        await self._stop()

    async def _stop(self) -> None:
        await tasks.end(self._keeping)

    async def _keep(self) -> None:
        """Renew a third of the lease before it matters; a request, so that a loss is noticed."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while loop.time() - renewed < self._lease_s:
            await asyncio.sleep(self._lease_s / 3)
            with contextlib.suppress(nats.errors.Error, TimeoutError):
                await self._message._client.request(  # noqa: SLF001 - in_progress() awaits no answer
                    self._message.reply, b"+WPI", timeout=self._lease_s / 3
                )
                renewed = loop.time()
        self._lost.set()


class Tickets:
    """Puts and takes tickets: highest priority first, one at a time, none prefetched."""

    def __init__(self, nc: Client, names: subjects.Subjects, lease_s: float) -> None:
        self._nc = nc
        self._js: JetStreamContext = nc.jetstream()
        self._names = names
        self._lease_s = lease_s
        self._armed: dict[int, asyncio.Task[Msg | None]] = {}
        self._taking = False
        self._errands: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Make the consumers, one per priority, shared by all agents."""
        for priority in PRIORITIES:
            config = api.ConsumerConfig(
                durable_name=self._names.tickets_consumer(priority),
                filter_subject=self._names.tickets(priority),
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=self._lease_s,
                max_ack_pending=-1,
                max_waiting=512,
            )
            await self._js.add_consumer(self._names.tickets_stream, config)

    async def close(self) -> None:
        """Stop waiting for tickets."""
        await tasks.end(*self._armed.values())
        await asyncio.gather(*self._errands, return_exceptions=True)

    async def put(self, run_id: str, priority: int, token: str) -> bool:
        """Queue a run; False if it is queued already. `token` tells one queueing from the next."""
        try:
            ack = await self._js.publish(
                self._names.ticket(priority, run_id),
                b"",
                stream=self._names.tickets_stream,
                headers={"Nats-Msg-Id": f"{run_id}-{token}"},
            )
        except nats.js.errors.APIError as error:
            if error.err_code != _SECOND_TICKET:
                raise
            return False
        return not ack.duplicate

    async def queued(self) -> set[str]:
        """Name the runs that are in the queue, taken or not."""
        info = await self._js.stream_info(
            self._names.tickets_stream, subjects_filter=self._names.tickets()
        )
        places = (self._names.read_ticket(subject) for subject in info.state.subjects or {})
        return {place[1] for place in places if place is not None}

    async def take(self) -> Ticket:
        """Wait for the next ticket, of the highest priority that has one."""
        self._taking = True
        try:
            while True:
                message = await self._ready() or await self._first()
                place = self._names.read_ticket(message.subject) if message else None
                if message is not None and place is not None:
                    return Ticket(place[1], message, self._lease_s)
        finally:
            self._taking = False

    async def _ready(self) -> Msg | None:
        """Take a ticket that waits already; a backlog is served strictly by priority."""
        for priority in PRIORITIES:
            message = await self._pull(priority, wait_s=0)
            if message is not None:
                return message
        return None

    async def _first(self) -> Msg | None:
        """Wait on all priorities at once for whichever comes first."""
        for priority in PRIORITIES:
            if priority not in self._armed:
                self._arm(priority)
        await asyncio.wait(self._armed.values(), return_when=asyncio.FIRST_COMPLETED)
        found = [
            message
            for priority in PRIORITIES
            if self._armed[priority].done()
            and (message := self._armed.pop(priority).result()) is not None
        ]
        for message in found[1:]:
            await message.nak()
        return found[0] if found else None

    def _arm(self, priority: int) -> None:
        pull = asyncio.create_task(self._pull(priority, wait_s=_PULL_S))
        self._armed[priority] = pull
        pull.add_done_callback(lambda done: self._came(priority, done))

    def _came(self, priority: int, pull: asyncio.Task[Msg | None]) -> None:
        """Give a ticket back at once that came while there was no room for it."""
        if self._taking or pull.cancelled() or self._armed.get(priority) is not pull:
            return
        del self._armed[priority]
        message = pull.result()
        if message is not None:
            errand = asyncio.ensure_future(message.nak())
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)

    async def _pull(self, priority: int, wait_s: float) -> Msg | None:
        durable = self._names.tickets_consumer(priority)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.tickets_stream}.{durable}"
        wish = (
            {"batch": 1, "expires": int(wait_s * 1e9)} if wait_s else {"batch": 1, "no_wait": True}
        )
        try:
            async with self._inbox() as (inbox, answers):
                await self._nc.publish(subject, msgspec.json.encode(wish), reply=inbox)
                message = await answers.next_msg(timeout=wait_s + self._lease_s / 2)
        except (nats.errors.Error, TimeoutError):
            await asyncio.sleep(_AWAY_S)
            return None
        status = (message.headers or {}).get("Status")
        if status == _NO_RESPONDERS:
            await asyncio.sleep(_AWAY_S)
        return message if status is None else None

    @contextlib.asynccontextmanager
    async def _inbox(self) -> AsyncIterator[tuple[str, Subscription]]:
        """Listen for one answer: once nobody does, the broker gives no ticket to that pull."""
        inbox = self._nc.new_inbox()
        answers = await self._nc.subscribe(inbox)
        try:
            yield inbox, answers
        finally:
            with contextlib.suppress(nats.errors.Error):
                await answers.unsubscribe()
