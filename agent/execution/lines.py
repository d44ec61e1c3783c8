"""Owns the line between the agent and its workers: orders go out over the bus, replies come back.

It is faster than a call through Ray, and it promises nothing: whoever waits for a reply asks the
worker itself, through Ray, when the line has been quiet for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import msgspec
import nats.errors
import structlog
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent import config
from agent.bus import connection
from protocol import subjects

log = structlog.get_logger(__name__)

FETCH = b""
"""The reply that says: it is too large for the bus, fetch it through Ray."""
_ENVELOPE_BYTES = 1024
_WAIT_S = 2.0
EAR = "ear"
"""The name of the thread that listens in a worker."""


class Order(msgspec.Struct, frozen=True, array_like=True):
    """One attempt for one worker."""

    number: int
    """It tells the attempt from the worker's others."""
    work: bytes
    floor: int = 0
    """The lowest number of an attempt whose reply is still waited for."""


class Access(msgspec.Struct, frozen=True):
    """How a worker reaches the bus."""

    url: str
    settings: config.Nats


read_order = msgspec.msgpack.Decoder(Order).decode
"""Reads an order; its only writer is the agent that started the worker."""


class Lines:
    """The agent's end: one inbox for the replies of all workers."""

    def __init__(self, nc: Client, names: subjects.Subjects, access: Access) -> None:
        self.access = access
        self._nc = nc
        self._names = names
        self._inbox = nc.new_inbox()
        self._waiting: dict[str, dict[str, Callable[[bytes], None]]] = {}

    async def open(self) -> None:
        """Listen for replies."""
        await self._nc.subscribe(f"{self._inbox}.*.*", cb=self._came)

    def subject(self, worker: str) -> str:
        """Give where a worker gets its orders."""
        return self._names.worker(worker)

    async def send(self, worker: str, order: Order, take: Callable[[bytes], None]) -> bool:
        """Send an order and have its reply taken; False where the bus can't carry it."""
        data = msgspec.msgpack.encode(order)
        if len(data) + _ENVELOPE_BYTES > self._nc.max_payload or not self._nc.is_connected:
            return False
        self._waiting.setdefault(worker, {})[str(order.number)] = take
        place = f"{self._inbox}.{worker}.{order.number}"
        try:
            await self._nc.publish(self.subject(worker), data, place)
        except nats.errors.Error:
            return False
        return True

    def drop(self, worker: str, number: int) -> None:
        """Wait for the reply to an order no more."""
        self._waiting.get(worker, {}).pop(str(number), None)

    def forget(self, worker: str) -> None:
        """Wait for nothing of a worker any more."""
        self._waiting.pop(worker, None)

    async def _came(self, message: Msg) -> None:
        worker, number = message.subject.split(".")[-2:]
        take = self._waiting.get(worker, {}).pop(number, None)
        if take is not None:
            take(message.data)


class Ear:
    """A worker's end: a thread that listens, beside the one that works."""

    def __init__(self, access: Access, subject: str, take: Callable[[Order, str], None]) -> None:
        self._access = access
        self._subject = subject
        self._take = take
        self._connected = threading.Event()
        self._loop = uvloop.new_event_loop()
        self._nc: Client | None = None

    def listens(self) -> bool:
        """Start, and say whether the bus can be reached from here."""
        threading.Thread(target=self._run, name=EAR, daemon=True).start()
        return self._connected.wait(_WAIT_S)

    def answer(self, place: str, data: bytes) -> None:
        """Send a reply, from any thread; one that is too large is left to be fetched."""
        if self._nc is None:
            return
        small = len(data) + _ENVELOPE_BYTES <= self._nc.max_payload
        self._loop.call_soon_threadsafe(self._send, place, data if small else FETCH)

    def _send(self, place: str, data: bytes) -> None:
        assert self._nc is not None
        sending = self._loop.create_task(self._nc.publish(place, data))
        sending.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.suppress(OSError, nats.errors.Error, TimeoutError):
            self._loop.run_until_complete(self._listen())
            self._connected.set()
            self._loop.run_forever()

    async def _listen(self) -> None:
        access = self._access
        async with asyncio.timeout(_WAIT_S):  # it would try for ever where there is no way
            self._nc = await connection.connect(access.url, access.settings, "worker")
        await self._nc.subscribe(self._subject, cb=self._hear)
        await self._nc.flush()

    async def _hear(self, message: Msg) -> None:
        self._take(read_order(message.data), message.reply)
