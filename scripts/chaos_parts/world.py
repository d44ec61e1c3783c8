"""Owns what is put under stress, a broker, a Ray cluster, agents behind cables, and mends it."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator

import psutil

from agent import tasks
from agent.bus import server
from scripts import agents
from scripts.chaos_parts import load, proxy, ray_head

LEASE_S = 3.0
CPUS = 2
_AGAIN_S = 0.5


class World:
    """Everything that can be broken. What ends is started again, as a supervisor would."""

    def __init__(self, folder: pathlib.Path, count: int) -> None:
        self.folder = folder
        self.broker = server.EmbeddedServer(folder / "nats", ray_head.free_port())
        self.ray = ray_head.RayHead(folder, CPUS, {"PYTHONPATH": str(agents.ROOT)})
        self.agents: list[agents.Agent] = []
        self.cables: list[proxy.Proxy] = []
        self._count = count
        self._changing = asyncio.Lock()
        """A broker or a cluster that is down is started before anything else is broken in it."""

    @property
    def url(self) -> str:
        """Say where the bus is, beside all cables."""
        return self.broker.url

    @property
    def artifacts(self) -> str:
        """Say where the agents keep artifacts."""
        return (self.folder / "artifacts").as_uri()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let it all run while the context lasts."""
        (self.folder / "data").mkdir()
        load.write_table(self.folder / "data")
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.broker)
            stack.push_async_callback(self.ray.stop)
            await self.ray.start()
            for number in range(self._count):
                await self._add(f"agent-{number}", stack)
            yield

    async def _add(self, name: str, stack: contextlib.AsyncExitStack) -> None:
        cable = await stack.enter_async_context(proxy.Proxy(self.url))
        settings = [
            f"nats.url={cable.url}",
            f"ray.address={self.ray.address}",
            "ray.workers=1",
            f"runs.lease_s={LEASE_S}",
            f"artifacts.uri={self.artifacts}",
            f"tracking.uri=sqlite:///{self.folder / 'mlflow.db'}",
            f"access.data_roots={self.folder / 'data'}",
            "logs.format=json",
        ]
        one = agents.Agent(
            name, self.folder, settings, stages="scripts.chaos_parts.stages", env=self.ray.env
        )
        stack.push_async_callback(one.stop)
        await one.start()
        self.agents.append(one)
        self.cables.append(cable)
        keeping = asyncio.create_task(self._keep(one), name=f"keep {name}")
        stack.push_async_callback(tasks.end, keeping)

    async def _keep(self, one: agents.Agent) -> None:
        """Start an agent again whenever it ends."""
        while True:
            await one.wait_ended()
            await asyncio.sleep(_AGAIN_S)
            with contextlib.suppress(agents.NotReady, TimeoutError):
                await one.start()

    async def restart_broker(self, away_s: float) -> None:
        """Kill the broker, and start it again on the same files."""
        async with self._changing:
            process = self.broker._process  # noqa: SLF001 - whoever breaks it must get at it
            assert process is not None
            process.kill()
            await process.wait()
            await asyncio.sleep(away_s)
            await self.broker.__aenter__()

    async def restart_ray(self) -> None:
        """Kill the cluster's head, and start another at its address."""
        async with self._changing:
            self.ray.kill()
            await self.ray.stop()
            await self.ray.start()

    def workers(self) -> list[psutil.Process]:
        """Give the processes that run stages."""
        return self.ray.workers()

    def mend(self) -> None:
        """Mend every cable."""
        for cable in self.cables:
            cable.mend()
