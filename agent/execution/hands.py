"""Owns single Ray workers: starting one, calling it, killing it, and proving that it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from agent.execution import lines, worker

GONE_WITHIN_S = 10.0
AHEAD = 8
"""How many attempts may wait in a worker for their turn; with none it idles between two."""
PROMPT_S = 0.05
"""After this long an attempt counts as one that nobody should wait behind."""
_POLL_S = 0.005


class Unkillable(Exception):
    """A killed worker is still there."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the worker {where} was killed {GONE_WITHIN_S:g} s ago and still runs")
        self.where = where


class Withdrawn(Exception):
    """An attempt that waited in a worker for its turn is not carried out there."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the attempt did not get its turn on {where}")
        self.where = where


class Adopted(Exception):
    """The worker, and the attempt that it was at, are another agent's now."""

    def __init__(self, where: str) -> None:
        super().__init__(f"another agent goes on with the attempt on {where}")
        self.where = where


class Shape(msgspec.Struct, frozen=True):
    """What a worker reserves on the cluster; the common ones reserve nothing."""

    gpu: float = 0.0
    memory_bytes: int = 0


COMMON = Shape()


class Call:
    """One attempt on a worker, and its reply."""

    def __init__(self, number: int, payload: bytes, began: Callable[[], None]) -> None:
        self.number = number
        """It tells the attempt from the worker's others."""
        self.payload = payload
        self.begun = False
        """Those before it are done."""
        self._began = began
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """Raises Ray's error where the worker dies under it, Withdrawn if it is not to begin."""

    def begin(self) -> None:
        """Take note that it is its turn."""
        self.begun = True
        self._began()

    def settle(self, outcome: bytes | BaseException) -> None:
        """Take the reply, or what prevents it; only the first counts."""
        if self.reply.done():
            return
        if isinstance(outcome, bytes):
            self.reply.set_result(outcome)
        else:
            self.reply.set_exception(outcome)
            self.reply.exception()  # nobody may wait for it any more


class Hand:
    """One worker. It works on one attempt at a time; some may wait in it for their turn."""

    def __init__(
        self,
        actor: Any,
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
        self._actor = actor
        self.name = name
        """By which Ray knows it, and the bus."""
        self._line = line
        self._calls: dict[int, Call] = {}
        """Under way, by number; the first is the one that is worked on."""
        self._count = count
        self.idle_since = time.monotonic()
        self._node = node
        self._starting = asyncio.Lock()
        self._signing: asyncio.Task[None] | None = None
        self._since = 0.0
        self._lost: BaseException | None = None
        self._children: list[Any] = []
        self._insisting: set[asyncio.Task[None]] = set()

    async def ready(self) -> None:
        """Wait until it can take work; raises Ray's error where it never will."""
        async with self._starting:
            if self.identity is None:
                data = await self._actor.identify.remote()
                self.identity = msgspec.msgpack.decode(data, type=worker.Identity)
                serving = asyncio.wrap_future(self._actor.serve.remote().future())
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
        return alive and listens and _now() - self._since < PROMPT_S

    def call(self, payload: bytes, began: Callable[[], None]) -> Call:
        """Queue an attempt; `began` is called when it is its turn."""
        self._count += 1
        call = Call(self._count, payload, began)
        self._calls[call.number] = call
        call.reply.add_done_callback(lambda _: self._over(call))
        return call

    async def begin(self, call: Call) -> None:
        """Send an attempt to the worker."""
        if next(iter(self._calls.values())) is call:
            self._turn(call)
        if self._lost is not None:
            call.settle(self._lost)
        elif not await self._sent(call):
            self.insist(call)

    def _turn(self, call: Call) -> None:
        self._since = _now()
        call.begin()

    def _over(self, call: Call) -> None:
        """Let the next attempt have its turn."""
        was_first = next(iter(self._calls)) == call.number
        del self._calls[call.number]
        if self._line is not None:
            self._line.drop(self.name, call.number)
        # One that was dropped may still be at work: whoever dropped it kills the worker.
        ended = not (call.begun and call.reply.cancelled())
        if was_first and ended and self._calls and not self.lost:
            self._turn(next(iter(self._calls.values())))

    async def _sent(self, call: Call) -> bool:
        if self._line is None or self.identity is None or not self.identity.listens:
            return False
        order = self._order(call)
        return await self._line.send(self.name, order, lambda data: self._came(call, data))

    def _order(self, call: Call) -> lines.Order:
        return lines.Order(call.number, call.payload, floor=next(iter(self._calls), call.number))

    def _came(self, call: Call, data: bytes) -> None:
        if data == lines.FETCH:
            self.insist(call)
        else:
            call.settle(data)

    def insist(self, call: Call) -> None:
        """Have the reply come through Ray: the line cannot carry it, or may have lost it."""
        task = asyncio.create_task(self._insist(call), name="insist")
        self._insisting.add(task)
        task.add_done_callback(self._insisting.discard)

    async def _insist(self, call: Call) -> None:
        order = msgspec.msgpack.encode(self._order(call))
        try:
            data: bytes = await self._aside("answer").remote(order)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            call.settle(error)
        else:
            call.settle(data or Withdrawn(self.where))

    def _ended(self, serving: asyncio.Future[None]) -> None:
        """Tell whoever waits that the worker is gone."""
        if not serving.cancelled() and (error := serving.exception()) is not None:
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        self._lost = self._lost or error
        under_way = [call for call in self._calls.values() if not call.reply.done()]
        for call in under_way:
            call.settle(error if call.begun else Withdrawn(self.where))

    async def ask_to_stop(self, number: int, holder: str) -> None:
        """Tell an attempt to stop."""
        await self._aside("stop").remote(number, holder)

    def is_only_at(self, call: Call) -> bool:
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
            self._lose(Adopted(self.where))
            self.leave()
        return ours

    def leave(self) -> None:
        """Have nothing to do with it any more; it finishes what it is at and ends by itself."""
        self.dead = True
        if self._line is not None:
            self._line.forget(self.name)

    async def withdraw(self, call: Call) -> bool:
        """Take an attempt back; False if its turn has come, so that it goes on."""
        withdrawn: bool = not call.begun and await self._aside("withdraw").remote(call.number)
        if withdrawn:
            call.settle(Withdrawn(self.where))
        return withdrawn

    async def news(self, number: int, seen: int, patience_s: float) -> list[worker.Told]:
        """Wait for what an attempt tells."""
        data = await self._aside("listen").remote(number, seen, patience_s)
        return msgspec.msgpack.decode(data, type=list[worker.Told])

    def _aside(self, method: str) -> Any:
        return getattr(self._actor, method).options(concurrency_group=worker.LISTENING)

    def kill(self) -> None:
        """End the process and what it started, at once."""
        if self.dead:
            return
        self.dead = True
        if self._line is not None:
            self._line.forget(self.name)
        self._children = _children(self.identity) if self._is_here() else []
        # It waits for the cluster's head, which may be gone: nobody waits with it.
        threading.Thread(target=_kill, args=(self._actor,), name="kill", daemon=True).start()
        self._end_here()  # before its children: it must not take their end for a result
        for child in self._children:
            with contextlib.suppress(Exception):  # it may be gone by now
                child.kill()

    def _end_here(self) -> None:
        """End the process without asking Ray, if it runs on this machine."""
        who = self.identity
        if who is not None and self._is_here() and is_alive(who.pid, who.created):
            with contextlib.suppress(ProcessLookupError):
                os.kill(who.pid, signal.SIGKILL)

    async def wait_gone(self) -> None:
        """Return once the process, and what it started, is proved gone; raises Unkillable."""
        if self.identity is None:
            return  # it never took work
        until = time.monotonic() + GONE_WITHIN_S
        while any(map(_runs, self._children)) or not await self._gone(self.identity):
            if time.monotonic() > until:
                raise Unkillable(self.where)
            await asyncio.sleep(_POLL_S)

    async def _gone(self, who: worker.Identity) -> bool:
        if self._is_here():
            return not is_alive(who.pid, who.created)
        return await _gone_there(who)

    def _is_here(self) -> bool:
        import ray

        who = self.identity
        here = ray.get_runtime_context().get_node_id()
        return who is not None and who.node == here and who.host == platform.node()


def _kill(actor: Any) -> None:
    import ray

    with contextlib.suppress(Exception):  # the cluster is being left, or is gone
        ray.kill(actor, no_restart=True)


def _now() -> float:
    return asyncio.get_running_loop().time()


def is_alive(pid: int, created: float) -> bool:
    """Say whether that very process runs; a zombie does not."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _children(who: worker.Identity | None) -> list[Any]:
    import psutil

    try:
        return psutil.Process(who.pid).children(recursive=True) if who else []
    except psutil.NoSuchProcess:
        return []


def _runs(process: Any) -> bool:
    """Say whether a process that was seen before still runs; a zombie does not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _gone_there(who: worker.Identity) -> bool:
    """Have the node of a worker look; a dead node runs nothing."""
    import ray
    from ray.util import scheduling_strategies

    there = scheduling_strategies.NodeAffinitySchedulingStrategy(who.node, soft=False)
    look = ray.remote(is_alive).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        return not await look.remote(who.pid, who.created)
    except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
        return True
