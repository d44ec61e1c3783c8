"""Owns the faults: each breaks one thing of the world, and lets it come back after a while."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable

import psutil

from scripts.chaos_parts import world

Fault = Callable[[world.World, random.Random], Awaitable[bool]]
"""Gives False where there was nothing to break."""


async def kill_agent(on: world.World, chance: random.Random) -> bool:
    """End an agent as kill -9 does."""
    return _send(on, chance, signal.SIGKILL)


async def stop_agent(on: world.World, chance: random.Random) -> bool:
    """Ask an agent to stop, as for an upgrade."""
    return _send(on, chance, signal.SIGTERM)


async def freeze_agent(on: world.World, chance: random.Random) -> bool:
    """Stop an agent's clock, for less than a lease or for more."""
    one = chance.choice(on.agents)
    if not one.running:
        return False
    one.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(chance.uniform(0.5, 2.5 * world.LEASE_S))
    finally:
        one.send(signal.SIGCONT)
    return True


async def cut_agent(on: world.World, chance: random.Random) -> bool:
    """Take an agent's cable out, for less than a lease or for more."""
    cable = chance.choice(on.cables)
    cable.cut()
    try:
        await asyncio.sleep(chance.uniform(0.5, 2.5 * world.LEASE_S))
    finally:
        cable.mend()
    return True


async def kill_worker(on: world.World, chance: random.Random) -> bool:
    """End a process that runs stages."""
    return _kill(chance, on.workers())


async def kill_specialist(on: world.World, chance: random.Random) -> bool:
    """End an agent's ML-Training-Specialist."""
    found = [there for one in on.agents if (there := one.specialist()) is not None]
    return _kill(chance, found)


async def restart_broker(on: world.World, chance: random.Random) -> bool:
    """End the broker as kill -9 does, and start it again."""
    await on.restart_broker(chance.uniform(0.2, 3.0))
    return True


async def restart_ray(on: world.World, _: random.Random) -> bool:
    """End the cluster's head as kill -9 does, and start another."""
    await on.restart_ray()
    return True


FAULTS: dict[str, tuple[Fault, int]] = {
    "agent killed": (kill_agent, 20),
    "agent stopped": (stop_agent, 10),
    "agent frozen": (freeze_agent, 15),
    "agent cut off": (cut_agent, 15),
    "worker killed": (kill_worker, 25),
    "specialist killed": (kill_specialist, 10),
    "broker killed": (restart_broker, 8),
    "Ray head killed": (restart_ray, 1),
}
"""By name, with how often each is chosen."""


class Injector:
    """Breaks one thing after the other, several at a time where they last."""

    def __init__(self, on: world.World, seed: int, leave_out: frozenset[str] = frozenset()) -> None:
        self.done: collections.Counter[str] = collections.Counter()
        self._on = on
        self._chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
        self._names = [name for name in FAULTS if name not in leave_out]
        self._lasting: set[asyncio.Task[None]] = set()

    async def inject(self, count: int, every_s: float) -> None:
        """Break things until `count` faults are done and over."""
        weights = [FAULTS[name][1] for name in self._names]
        while self.done.total() < count:
            if self.done.total() + len(self._lasting) >= count:  # it may turn out to be nothing
                await asyncio.wait(self._lasting)
                continue
            await asyncio.sleep(self._chance.uniform(0, 2 * every_s))
            name = self._chance.choices(self._names, weights)[0]
            chance = random.Random(self._chance.randrange(2**32))  # noqa: S311 - as above
            task = asyncio.create_task(self._break(name, chance), name=name)
            self._lasting.add(task)
            task.add_done_callback(self._lasting.discard)

    async def _break(self, name: str, chance: random.Random) -> None:
        if await FAULTS[name][0](self._on, chance):
            self.done[name] += 1


def _send(on: world.World, chance: random.Random, number: signal.Signals) -> bool:
    one = chance.choice(on.agents)
    was_running = one.running
    one.send(number)
    return was_running


def _kill(chance: random.Random, found: list[psutil.Process]) -> bool:
    if not found:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        chance.choice(found).kill()
        return True
    return False
