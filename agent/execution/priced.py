"""Owns the executor that says what an attempt cost: its CPU time at the configured price."""

from __future__ import annotations

import msgspec

from agent.execution import base
from agent.run import effects

_SECONDS_PER_HOUR = 3600.0


class PricedExecutor:
    """Runs attempts elsewhere and adds the estimated cost to their usage."""

    def __init__(self, inner: base.Executor, per_cpu_hour: float) -> None:
        self._inner = inner
        self._per_cpu_second = per_cpu_hour / _SECONDS_PER_HOUR

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Run one attempt; what was taken from the cache costs nothing."""
        outcome = await self._inner.run(work, watcher)
        if not isinstance(outcome, base.Succeeded) or outcome.usage is None or outcome.cached:
            return outcome
        cost = outcome.usage.cpu_s * self._per_cpu_second
        usage = msgspec.structs.replace(outcome.usage, cost=cost)
        return msgspec.structs.replace(outcome, usage=usage)

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Stop an attempt."""
        await self._inner.stop(key, force=force)

    async def close(self) -> None:
        """Close the inner executor."""
        await self._inner.close()
