"""Owns whether the cluster has as much as an attempt needs."""

from __future__ import annotations

import asyncio

from protocol import pipelines, problems


class Capacity:
    """Knows how many CPUs there are, and asks Ray for what else its nodes have."""

    def __init__(self, cpus: int) -> None:
        self.cpus = self._most = cpus

    def resize(self, cpus: int) -> None:
        """Take note of how many CPUs there are now."""
        self.cpus, self._most = cpus, max(cpus, self._most)

    def too_few(self, needs: pipelines.Resources) -> problems.Problem | None:
        """Say if there are too few CPUs now; where there have been enough, there may be again."""
        if needs.cpu <= self.cpus:
            return None
        return _too_much("CPUs", needs.cpu, self.cpus, again=needs.cpu <= self._most)

    async def missing(self, needs: pipelines.Resources) -> problems.Problem | None:
        """Say what there is too little of."""
        if (problem := self.too_few(needs)) is not None:
            return problem
        if not needs.gpu and not needs.memory_bytes:
            return None
        import ray

        nodes = [n["Resources"] for n in await asyncio.to_thread(ray.nodes) if n["Alive"]]
        for name, what, wanted in (
            ("GPU", "GPUs", needs.gpu),
            ("memory", "bytes of memory", needs.memory_bytes or 0),
        ):
            most = max((node.get(name, 0) for node in nodes), default=0)
            if wanted > most:
                return _too_much(what, wanted, most)
        return None


def _too_much(what: str, wanted: float, there: float, *, again: bool = False) -> problems.Problem:
    message = f"the stage needs {wanted:g} {what}; there is no more than {there:g} to be had"
    hint = "lower the stage's resources"
    return problems.Problem("unavailable", message, hint=hint, retryable=again)
