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
"""How long one waiting pull is open at most."""
_PULL_LEASES = 1 / 3
"""The same in leases: what an agent that is frozen would have renewed must not come to itself."""
_AWAY_S = 0.2
_ANSWER_S = 3.0
_NOTICE_S = 0.5
"""How long it takes to notice that a broker which came back knows nothing of a pull."""
_NO_RESPONDERS = "503"
_SECOND_TICKET = 10077
"""The error code of a stream that refuses a message because its subject has one."""


class Ticket:
    """The right to conduct a run, for as long as it is kept alive."""

    def __init__(self, run_id: str, priority: int, message: Msg, lease_s: float) -> None:
        self.run_id = run_id
        self.priority = priority
        self.number = int(message.metadata.sequence.stream)
        """Of the message: what is delivered again has the same."""
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
        """Let another agent (or this one) take the run, after a while; one that is lost is let be.

        The broker would take it back from whoever holds it by now.
        """
        await self._stop()
        if self.lost:
            return
        with contextlib.suppress(nats.errors.Error):
            await self._message.nak(delay=delay_s or None)

    async def forget(self) -> None:
        """Stop renewing a ticket that somebody else holds by now."""
        await self._stop()

    async def _stop(self) -> None:
        await tasks.end(self._keeping)

    async def _keep(self) -> None:
        """Renew it every third of a lease, until it could not be for a whole one.

        The clock here decides: the broker takes a renewal however late it comes, and whoever holds
        the ticket by then (https://github.com/nats-io/nats-server/issues/4786).
        """
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while loop.time() - renewed < self._lease_s:
            await asyncio.sleep(self._lease_s / 3)
            asked = loop.time()
            if asked - renewed < self._lease_s and await self._renew():
                renewed = asked
        self._lost.set()

    async def _renew(self) -> bool:
        """Renew it once; a request, so that a loss is noticed."""
        try:
            await self._message._client.request(  # noqa: SLF001 - in_progress() awaits no answer
                self._message.reply, b"+WPI", timeout=self._lease_s / 3
            )
        except (nats.errors.Error, TimeoutError):
            return False
        return True


class Tickets:
    """Puts and takes tickets: highest priority first, one at a time, none prefetched."""

    def __init__(self, nc: Client, names: subjects.Subjects, lease_s: float) -> None:
        self._nc = nc
        self._js: JetStreamContext = nc.jetstream(timeout=_ANSWER_S)
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

    async def waiting(self) -> int:
        """Count the runs in the queue that nobody has taken."""
        infos = await asyncio.gather(
            *(
                self._js.consumer_info(
                    self._names.tickets_stream, self._names.tickets_consumer(priority)
                )
                for priority in PRIORITIES
            )
        )
        return sum(info.num_pending or 0 for info in infos)

    async def take(self) -> Ticket:
        """Wait for the next ticket, of the highest priority that has one."""
        self._taking = True
        try:
            while True:
                message = await self._ready() or await self._first()
                place = self._names.read_ticket(message.subject) if message else None
                if message is not None and place is not None:
                    return Ticket(place[1], place[0], message, self._lease_s)
                if message is not None:  # it names no run: it would come again and again
                    log.warning("ticket.unreadable", subject=message.subject[:200])
                    await message.term()
        finally:
            self._taking = False
            for priority, pull in [*self._armed.items()]:
                if pull.done():  # it came while another was being taken
                    self._came(priority, pull)

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
        wait = min(_PULL_S, self._lease_s * _PULL_LEASES)
        pull = asyncio.create_task(self._pull(priority, wait_s=wait))
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
        asked = asyncio.get_running_loop().time()
        try:
            async with self._inbox() as (inbox, answers):
                await self._nc.publish(subject, msgspec.json.encode(wish), reply=inbox)
                message = await self._answer(answers, wait_s + self._lease_s / 2)
        except (nats.errors.Error, TimeoutError):
            await asyncio.sleep(_AWAY_S)
            return None
        status = (message.headers or {}).get("Status")
        if status == _NO_RESPONDERS:
            await asyncio.sleep(_AWAY_S)
        # After a pause of a whole lease, what came in meanwhile is somebody else's by now.
        late = asyncio.get_running_loop().time() - asked >= self._lease_s
        return message if status is None and not late else None

    async def _answer(self, answers: Subscription, patience_s: float) -> Msg:
        """Wait for an answer; raise TimeoutError once a new connection says that none will come."""
        loop = asyncio.get_running_loop()
        until, connections = loop.time() + patience_s, self._nc.stats["reconnects"]
        while True:
            try:
                return await answers.next_msg(timeout=min(_NOTICE_S, until - loop.time()))
            except nats.errors.TimeoutError:
                if loop.time() >= until or self._nc.stats["reconnects"] != connections:
                    raise

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
