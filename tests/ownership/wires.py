"""Owns the client of an agent in the simulation, and its wire: late, in order, cut, mended."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
from collections.abc import Callable
from typing import Any

import nats.errors
import nats.js
from nats.aio.msg import Msg

from tests.ownership import clockwork, memory

SLOW_ONCE_IN = 40
FAST_S, SLOW_S = 0.004, 1.5
TICK_S = 1e-6
"""Between two messages: what is due at the same time runs in any order."""
_ids = itertools.count(1)


class Wire:
    """Carries messages both ways between one client and the broker, each way in order."""

    def __init__(self, broker: memory.Broker, chance: random.Random, *, slow: bool) -> None:
        self._broker = broker
        self._slow = slow
        self._chance = chance
        self._arrives = [0.0, 0.0]
        self._held: collections.deque[Callable[[], None]] = collections.deque()
        self.cut = False
        self.dead = False
        """Its client is gone: nothing more is sent or heard."""

    def carry(self, way: int, then: Callable[[], None]) -> None:
        """Do something at the other end, once it has got there."""
        if self.dead and way == 0:
            return
        if self.cut:
            self._held.append(lambda: self._send(way, then))
        else:
            self._send(way, then)

    def _send(self, way: int, then: Callable[[], None]) -> None:
        slow = self._slow and self._chance.randrange(SLOW_ONCE_IN) == 0
        takes = self._chance.uniform(0.0, SLOW_S if slow else FAST_S)
        loop = self._broker.loop
        self._arrives[way] = max(self._arrives[way] + TICK_S, loop.time() + takes)
        loop.call_at(self._arrives[way], then)

    def mend(self, *, lost: bool) -> None:
        """Go on; what was held arrives now, or never."""
        self.cut = False
        held, self._held = self._held, collections.deque()
        if not lost:
            for send in held:
                send()


class Subscription:
    def __init__(self, client: Client, subject: str, cb: Any) -> None:
        self._client, self._subject, self._cb = client, subject, cb
        self._came: asyncio.Queue[Msg] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, subject: str, data: bytes, reply: str, headers: Any) -> None:
        message = Msg(self._client, subject, reply, data, headers)
        if self._cb is None:
            self._came.put_nowait(message)
        else:
            task = self._client.loop.create_task(self._cb(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def next_msg(self, timeout: float) -> Msg:  # noqa: ASYNC109 - as the library has it
        try:
            async with asyncio.timeout(timeout):
                return await self._came.get()
        except TimeoutError as error:
            raise nats.errors.TimeoutError from error

    async def unsubscribe(self) -> None:
        self._client.stop_listening(self._subject)


class Client:
    """What the agent's parts need of nats-py's client."""

    is_closed, is_connected, max_payload = False, True, 1 << 20

    def __init__(self, loop: clockwork.Loop, broker: memory.Broker, wire: Wire) -> None:
        self.loop, self._broker, self.wire = loop, broker, wire
        self.stats = {"reconnects": 0}
        self._subjects: set[str] = set()

    def new_inbox(self) -> str:
        return f"_INBOX.{next(_ids)}"

    def jetstream(self, **options: Any) -> nats.js.JetStreamContext:
        return nats.js.JetStreamContext(self, **options)

    async def subscribe(self, subject: str, cb: Any = None) -> Subscription:
        one = Subscription(self, subject, cb)
        self._subjects.add(subject)

        def hear(*message: Any) -> None:
            self.wire.carry(1, lambda: self._arrived(one, message))

        self._tell(lambda: self._broker.listeners.__setitem__(subject, hear))
        return one

    def _arrived(self, one: Subscription, message: Any) -> None:
        if not self.wire.dead:
            self.loop.call_soon(one.heard, *message)

    def stop_listening(self, subject: str) -> None:
        self._subjects.discard(subject)
        self._tell(lambda: self._broker.listeners.pop(subject, None))

    def _tell(self, then: Callable[[], Any]) -> None:
        self.wire.carry(0, then)

    async def publish(
        self, subject: str, data: bytes = b"", reply: str = "", headers: Any = None
    ) -> None:
        self._tell(lambda: self._broker.take(subject, data, reply, headers))

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 - as the library has it
        headers: Any = None,
    ) -> Msg:
        inbox = self.new_inbox()
        answers = await self.subscribe(inbox)
        try:
            await self.publish(subject, data, inbox, headers)
            answer = await answers.next_msg(timeout)
        finally:
            await answers.unsubscribe()
        if (answer.headers or {}).get("Status") == "503":
            raise nats.errors.NoRespondersError
        return answer

    def die(self) -> None:
        """Be gone, as the broker notices at once when a process ends."""
        self.wire.dead = True
        for subject in self._subjects:
            self._broker.listeners.pop(subject, None)
