"""Owns the choice of who carries a delegated stage out: one of its own, or the specialist."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from agent.execution import base
from agent.run import effects
from agent.training import delegation


class Delegates:
    """Runs delegated stages: some kinds by an executor of their own, all others by training."""

    def __init__(
        self, own: Mapping[str, base.Executor], training: delegation.SpecialistExecutor
    ) -> None:
        self._own = own
        self._training = training

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Run one attempt to its end."""
        return await self._own.get(work.use, self._training).run(work, watcher)

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Ask whoever has the attempt to stop it."""
        for each in (*self._own.values(), self._training):
            await each.stop(key, force=force)

    async def recall(self, work: effects.Work) -> None:
        """Have stopped what a lost agent asked for; what only waited for an answer is over."""
        if work.use not in self._own:
            await self._training.recall(work)

    async def close(self) -> None:
        """Close all."""
        each = (*self._own.values(), self._training)
        await asyncio.gather(*(one.close() for one in each))
