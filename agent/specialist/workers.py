"""Owns the Ray tasks of one training: started, awaited, tried again, and stopped with proof."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable
from typing import Any

from agent.specialist import faults

ATTEMPTS = 3
"""How often a task is started whose worker dies."""
STOP_WAIT_S = 10.0


@functools.cache
def _remote(function: Callable[..., Any]) -> Any:
    """Make the remote function once: Ray keeps every export until it ends."""
    import ray

    return ray.remote(function)


class Workers:
    """Runs functions on Ray; knows all that is still running."""

    def __init__(self, cpu: float) -> None:
        self._cpu = cpu
        self._live: set[Any] = set()

    async def call(self, function: Callable[..., Any], *args: Any, returns: int = 1) -> Any:
        """Run a function to its end; raise its own fault, or WorkersLost after several deaths."""
        import ray

        for _ in range(ATTEMPTS):
            try:
                return await self._once(function, args, returns)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                lost = error
            except ray.exceptions.OutOfMemoryError as error:
                raise faults.MemoryExceeded("a trial was stopped for lack of memory") from error
            except ray.exceptions.ObjectLostError as error:
                raise faults.WorkersLost("the training data was lost with its node") from error
            except ray.exceptions.RayTaskError as error:
                raise (error.cause or error) from None
        msg = f"a worker died {ATTEMPTS} times under the same task"
        raise faults.WorkersLost(msg) from lost

    async def _once(self, function: Callable[..., Any], args: tuple[Any, ...], returns: int) -> Any:
        task = _remote(function).options(
            num_cpus=self._cpu, max_retries=0, num_returns=returns, name=function.__name__
        )
        refs = task.remote(*args)
        first = refs[0] if returns > 1 else refs
        self._live.add(first)
        try:
            value = await first
        except asyncio.CancelledError:
            raise  # still live: `stop` ends it
        except BaseException:
            self._live.discard(first)
            raise
        self._live.discard(first)
        return (value, *refs[1:]) if returns > 1 else value

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
