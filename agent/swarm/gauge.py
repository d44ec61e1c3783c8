"""Owns what the Ray cluster has now: its CPUs, and whether memory is left for more work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psutil
import structlog

from agent.execution import cluster
from agent.swarm import stance

log = structlog.get_logger(__name__)


class Gauge:
    """Measures the cluster that an agent is connected to."""

    def __init__(self, cores: cluster.Cluster, min_free_bytes: int) -> None:
        self._cluster = cores
        self._min_free_bytes = min_free_bytes
        self._followers: list[Callable[[int], None]] = []

    def follow(self, follower: Callable[[int], None]) -> None:
        """Have somebody told of the CPUs there are, each time they are counted."""
        self._followers.append(follower)

    async def measure(self, told: stance.Stance) -> None:
        """Bring a stance up to date; a cluster that does not answer is taken to be as it was."""
        try:
            cpus, free = await asyncio.to_thread(self._look)
        except Exception as error:  # noqa: BLE001 - Ray raises many things when it is away
            log.warning("cluster.not_measured", error=str(error))
            return
        told.measured(cpus, short=free < self._min_free_bytes)
        for follower in self._followers:
            try:
                follower(max(1, cpus))
            except Exception:  # one follower's defect must not keep the agent from showing itself
                log.exception("follower.broke", cpus=cpus)

    def _look(self) -> tuple[int, int]:
        import ray

        cpus = int(ray.cluster_resources().get("CPU", 0))
        if self._cluster.remote:  # its nodes may be elsewhere: what is not reserved is free
            return cpus, int(ray.available_resources().get("memory", 0))
        return cpus, int(psutil.virtual_memory().available)
