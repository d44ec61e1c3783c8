"""Owns single Ray workers: calling one, keeping it, leaving or killing it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from agent.execution import boards, calls, lines, processes, worker

TOLD_WITHIN_S = 2.0
"""How long whoever leaves a cluster waits for what Ray is being told yet."""


class Shape(msgspec.Struct, frozen=True):
    """What a worker reserves on the cluster; the common ones reserve nothing."""

    gpu: float = 0.0
    memory_bytes: int = 0


COMMON = Shape()


class Hand:
    """One worker. It works on one attempt at a time; some may wait in it for their turn."""

    def __init__(
        self,
        hired: concurrent.futures.Future[Any],
        shape: Shape = COMMON,
        *,
        name: str = "",
        line: lines.Lines | None = None,
        identity: worker.Identity | None = None,
        count: int = 0,
        shared: bool = False,
        node: str = "",
    ) -> None:
        self.shape = shape
        self.dead = False
        """Nothing more is to come of it, as far as we are concerned."""
        self.identity = identity
        self.shared = shared
        """It may outlive its agent, and then be another's."""
        self._hired = hired
        """The actor, once Ray has started it."""
        self.name = name
        """By which Ray knows it, and the bus."""
        self._line = line
        self._calls: dict[int, calls.Call] = {}
        """Under way, by number; the first is the one that is worked on."""
        self._count = count
        self.idle_since = time.monotonic()
        self._node = node
        self._starting = asyncio.Lock()
        self._signing: asyncio.Task[None] | None = None
        self._since = 0.0
        self._lost: BaseException | None = None
        self._started: list[Any] = []
        """What a worker that was killed had started on this machine."""
        self._insisting: set[asyncio.Task[None]] = set()
        self._killing: threading.Thread | None = None

    async def ready(self) -> None:
        """Wait until it can take work; raises Ray's error where it never will."""
        async with self._starting:
            if self.identity is None:
                actor = await asyncio.shield(asyncio.wrap_future(self._hired))
                data = await actor.identify.remote()
                self.identity = msgspec.msgpack.decode(data, type=worker.Identity)
                serving = asyncio.wrap_future(actor.serve.remote().future())
                serving.add_done_callback(self._ended)

    @property
    def where(self) -> str:
        """Say which process it is."""
        return self.identity.where if self.identity else "a worker that had not started"

    @property
    def node(self) -> str:
        """Name the node of the cluster that it is on, or is to be; nothing if not known."""
        return self.identity.node if self.identity else self._node

    @property
    def lost(self) -> bool:
        """Tell whether the process is known to have died by itself."""
        return self._lost is not None

    @property
    def prompt(self) -> bool:
        """Tell whether an attempt that waits in it can expect its turn soon."""
        alive = self._lost is None and not self.dead
        listens = self.identity is not None and self.identity.listens
        return alive and listens and _now() - self._since < calls.PROMPT_S

    def call(self, payload: bytes, began: Callable[[], None]) -> calls.Call:
        """Queue an attempt; `began` is called when it is its turn."""
        self._count += 1
        call = calls.Call(self._count, payload, began)
        self._calls[call.number] = call
        call.reply.add_done_callback(lambda _: self._over(call))
        return call

    async def begin(self, call: calls.Call) -> None:
        """Send an attempt to the worker."""
        if next(iter(self._calls.values())) is call:
            self._turn(call)
        if self._lost is not None:
            call.settle(self._lost)
        elif not await self._sent(call):
            self.insist(call)

    def _turn(self, call: calls.Call) -> None:
        self._since = _now()
        call.begin()

    def _over(self, call: calls.Call) -> None:
        """Let the next attempt have its turn."""
        was_first = next(iter(self._calls)) == call.number
        del self._calls[call.number]
        if self._line is not None:
            self._line.drop(self.name, call.number)
        # One that was dropped may still be at work: whoever dropped it kills the worker.
        ended = not (call.begun and call.reply.cancelled())
        if was_first and ended and self._calls and not self.lost:
            self._turn(next(iter(self._calls.values())))

    async def _sent(self, call: calls.Call) -> bool:
        if self._line is None or self.identity is None or not self.identity.listens:
            return False
        order = self._order(call)
        return await self._line.send(self.name, order, lambda data: self._came(call, data))

    def _order(self, call: calls.Call) -> lines.Order:
        return lines.Order(call.number, call.payload, floor=next(iter(self._calls), call.number))

    def _came(self, call: calls.Call, data: bytes) -> None:
        if data == lines.FETCH:
            self.insist(call)
        else:
            call.settle(data)

    def insist(self, call: calls.Call) -> None:
        """Have the reply come through Ray: the line cannot carry it, or may have lost it."""
        task = asyncio.create_task(self._insist(call), name="insist")
        self._insisting.add(task)
        task.add_done_callback(self._insisting.discard)

    async def _insist(self, call: calls.Call) -> None:
        order = msgspec.msgpack.encode(self._order(call))
        try:
            data: bytes = await self._aside("answer").remote(order)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            call.settle(error)
        else:
            call.settle(data or calls.Withdrawn(self.where))

    def _ended(self, serving: asyncio.Future[None]) -> None:
        """Tell whoever waits that the worker is gone."""
        if not serving.cancelled() and (error := serving.exception()) is not None:
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        self._lost = self._lost or error
        under_way = [call for call in self._calls.values() if not call.reply.done()]
        for call in under_way:
            call.settle(error if call.begun else calls.Withdrawn(self.where))

    async def ask_to_stop(self, number: int, holder: str) -> None:
        """Tell an attempt to stop."""
        await self._aside("stop").remote(number, holder)

    def is_only_at(self, call: calls.Call) -> bool:
        """Tell whether it is at this attempt, and none waits in it."""
        return call.begun and not self._calls.keys() - {call.number}

    def sign(self, holder: str) -> None:
        """Give a sign of life, unless the last one has not got through yet."""
        if not self.dead and not self.lost and self._signing is None:
            self._signing = asyncio.create_task(self._sign(holder), name="sign")

    async def _sign(self, holder: str) -> None:
        with contextlib.suppress(Exception):  # of a worker that is gone others tell
            await self.ready()  # one that has not been used yet needs the signs as well
            await self.is_of(holder)
        self._signing = None

    async def is_of(self, holder: str) -> bool:
        """Ask whether the worker is ours yet; take note if it is not."""
        ours: bool = await self._aside("sign").remote(holder)
        if not ours and not self.dead:
            self._lose(calls.Adopted(self.where))
            self.leave()
        return ours

    def leave(self) -> None:
        """Have nothing to do with it any more; it finishes what it is at and ends by itself."""
        self.dead = True
        if self._line is not None:
            self._line.forget(self.name)

    async def withdraw(self, call: calls.Call) -> bool:
        """Take an attempt back; False if its turn has come, so that it goes on."""
        withdrawn: bool = not call.begun and await self._aside("withdraw").remote(call.number)
        if withdrawn:
            call.settle(calls.Withdrawn(self.where))
        return withdrawn

    async def news(self, number: int, seen: int, patience_s: float) -> list[boards.Told]:
        """Wait for what an attempt tells."""
        data = await self._aside("listen").remote(number, seen, patience_s)
        return msgspec.msgpack.decode(data, type=list[boards.Told])

    def _aside(self, method: str) -> Any:
        actor = self._hired.result(timeout=0)  # whoever asks has waited until it was ready
        return getattr(actor, method).options(concurrency_group=worker.LISTENING)

    def kill(self) -> None:
        """End the process and what it started, at once."""
        if self.dead:
            return
        self.leave()
        if self.identity is not None:
            self._started = processes.end(self.identity)
        # It waits for the cluster's head, which may be gone: the event loop does not wait with it.
        self._killing = threading.Thread(
            target=_kill, args=(self._hired,), name="kill", daemon=True
        )
        self._killing.start()

    async def wait_gone(self) -> None:
        """Return once the process, and what it started, is proved gone; raises Unkillable."""
        if self.identity is not None:  # else it never took work
            await processes.wait_gone(self.identity, self._started)

    async def wait_told(self) -> None:
        """Wait until Ray knows of the kill, or for a while: its head may be gone.

        Ray ends a process that calls into it once it has left the cluster.
        """
        if self._killing is not None:
            await asyncio.to_thread(self._killing.join, TOLD_WITHIN_S)


def _kill(hired: concurrent.futures.Future[Any]) -> None:
    import ray

    with contextlib.suppress(Exception):  # the cluster is being left, or is gone
        ray.kill(hired.result(), no_restart=True)


def there(actor: Any) -> concurrent.futures.Future[Any]:
    """Give an actor as one that nobody has to wait for."""
    hired: concurrent.futures.Future[Any] = concurrent.futures.Future()
    hired.set_result(actor)
    return hired


def _now() -> float:
    return asyncio.get_running_loop().time()
