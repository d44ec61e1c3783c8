"""Owns how much an agent takes on: its capacity, what it is at, and whether it is draining."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal

from agent import tasks
from agent.execution import base
from agent.run import effects

State = Literal["ready", "draining", "stopped"]


class Stance:
    """What an agent takes on; whoever waits for a change of it hears of each."""

    def __init__(self, configured: int | None) -> None:
        self.state: State = "ready"
        self.at_work = 0
        self._chosen = configured
        self._configured = configured
        self._found = 1
        """How many CPUs the cluster has."""
        self._short = False
        """There is too little memory for anything more."""
        self._changed = asyncio.Event()

    @property
    def capacity(self) -> int:
        """Give how much it does at a time, as things are now."""
        most = self._found if self._chosen is None else self._chosen
        return min(most, self.at_work) if self._short else most

    @property
    def has_room(self) -> bool:
        """Tell whether it takes more."""
        return self.state == "ready" and self.at_work < self.capacity

    def measured(self, cpus: int, *, short: bool) -> None:
        """Take note of what the cluster has now."""
        self._found, self._short = cpus, short
        self._tell()

    def choose(self, capacity: int | None) -> None:
        """Set the capacity; None goes back to what is configured, or measured."""
        self._chosen = self._configured if capacity is None else capacity
        self._tell()

    def become(self, state: State) -> None:
        """Drain, take work again, or stop."""
        self.state = state
        self._tell()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count one piece of work while the context lasts."""
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1
            self._tell()

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that this stance decides."""
        while not condition():
            changed = self._changed
            await changed.wait()

    async def while_ready(self, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Serve, but not while draining; until cancelled."""
        while True:
            await self.wait(lambda: self.state == "ready")
            serving = asyncio.create_task(serve())
            draining = asyncio.create_task(self.wait(lambda: self.state != "ready"))
            try:
                await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    serving.result()
            finally:
                await tasks.end(serving, draining)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Counted:
    """An executor whose attempts count as what the agent is at."""

    def __init__(self, inner: base.Executor, stance: Stance) -> None:
        self._inner = inner
        self._stance = stance

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Run one attempt."""
        with self._stance.working():
            return await self._inner.run(work, watcher)

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Stop an attempt."""
        await self._inner.stop(key, force=force)

    async def close(self) -> None:
        """Close the inner executor."""
        await self._inner.close()
