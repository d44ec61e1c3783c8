"""Owns the Ray tasks of one training: started, awaited, tried again, and stopped with proof."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from agent.specialist import faults

ATTEMPTS = 3
"""How often a task is started whose worker dies."""
STOP_WAIT_S = 10.0
AHEAD = 2
"""How many unread yields a generator is ahead at most."""


@functools.cache
def _remote(function: Callable[..., Any]) -> Any:
    """Make the remote function once: Ray keeps every export until it ends."""
    import ray

    return ray.remote(function)


class Workers:
    """Runs functions on Ray; knows all that is still running."""

    def __init__(self, cpu: float, gpu: float = 0.0) -> None:
        self._needs = {"num_cpus": cpu, "num_gpus": gpu or None}
        self._live: set[Any] = set()

    async def call(self, function: Callable[..., Any], *args: Any, returns: int = 1) -> Any:
        """Run a function to its end; raise its own fault, or WorkersLost after several deaths."""
        return await self._persist(lambda: self._once(function, args, returns))

    async def follow(
        self,
        function: Callable[..., Any],
        args: Callable[[], Awaitable[tuple[Any, ...]]],
        hear: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Run a generator function to its end; tell each thing that it yields, at once.

        `args` is asked again for each try, so that one goes on from what was told before. Deaths
        count from the last thing that was told.
        """
        heard: list[bool] = []

        async def note(told: Any) -> None:
            await hear(told)
            heard.append(True)

        async def once() -> None:
            heard.clear()
            await self._follow(function, await args(), note)

        await self._persist(once, progressed=lambda: bool(heard))

    async def _persist(
        self,
        once: Callable[[], Awaitable[Any]],
        progressed: Callable[[], bool] = lambda: False,
    ) -> Any:
        import ray

        deaths = 0
        while True:
            try:
                return await once()
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                deaths = 1 if progressed() else deaths + 1
                if deaths == ATTEMPTS:
                    msg = f"a worker died {ATTEMPTS} times under the same task"
                    raise faults.WorkersLost(msg) from error
            except ray.exceptions.OutOfMemoryError as error:
                raise faults.MemoryExceeded("a trial was stopped for lack of memory") from error
            except ray.exceptions.ObjectLostError as error:
                raise faults.WorkersLost("the training data was lost with its node") from error
            except ray.exceptions.RayTaskError as error:
                raise (error.cause or error) from None

    async def _once(self, function: Callable[..., Any], args: tuple[Any, ...], returns: int) -> Any:
        refs = self._task(function, num_returns=returns).remote(*args)
        first = refs[0] if returns > 1 else refs
        async with self._alive(first):
            value = await first
        return (value, *refs[1:]) if returns > 1 else value

    async def _follow(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        hear: Callable[[Any], Awaitable[None]],
    ) -> None:
        # Without a bound, checkpoints would pile up where whoever hears is slower than the worker.
        task = self._task(
            function, num_returns="streaming", _generator_backpressure_num_objects=AHEAD
        )
        told = task.remote(*args)
        async with self._alive(told.completed()):
            async for ref in told:
                await hear(await ref)

    def _task(self, function: Callable[..., Any], **options: Any) -> Any:
        return _remote(function).options(
            max_retries=0, name=function.__name__, **self._needs, **options
        )

    @contextlib.asynccontextmanager
    async def _alive(self, ref: Any) -> AsyncIterator[None]:
        """Count a task among the running ones, until it is known to have ended."""
        self._live.add(ref)
        try:
            yield
        except asyncio.CancelledError:
            raise  # still live: `stop` ends it
        except BaseException:
            self._live.discard(ref)
            raise
        self._live.discard(ref)

    async def stop(self) -> bool:
        """Kill every running task; tell whether all of them are known to have ended."""
        import ray

        live = list(self._live)
        for ref in live:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(ref, force=True)
        if not live:
            return True
        _, running = await asyncio.to_thread(
            ray.wait, live, num_returns=len(live), timeout=STOP_WAIT_S, fetch_local=False
        )
        self._live = set(running)
        return not running
