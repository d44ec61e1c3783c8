"""Owns what is measured: a bus, a Ray cluster that floors share, an agent of its own process."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator

import msgspec

from agent import config
from agent.bus import server
from agent.execution import cluster

HERE = pathlib.Path(__file__).parent
PATH = f"{HERE}:{HERE.parents[1]}"
sys.path.append(str(HERE.parents[1]))

from scripts import agents  # noqa: E402 - it is no package that is installed


class Stack(msgspec.Struct, frozen=True):
    """What runs."""

    url: str
    """Of the bus."""
    pid: int
    """Of the agent."""
    ready_s: float
    """How long the agent took to be ready, with bus and cluster up."""


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Stack]:
    """Start it all, with stages that do nothing, and stop it."""
    os.environ["PYTHONPATH"] = PATH  # for Ray's workers
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        held = cluster.start(config.Ray(), folder)
        try:
            async with server.EmbeddedServer(folder / "nats") as bus:
                settings = (
                    f"nats.url={bus.url}",
                    f"ray.address={held.address}",
                    "specialist.embedded=false",
                    "logs.level=error",
                )
                agent = agents.Agent(
                    "bench", folder, settings, stages="noop_stages", env={"PYTHONPATH": PATH}
                )
                try:
                    started = time.perf_counter()
                    await agent.start()
                    yield Stack(bus.url, agent.pid, time.perf_counter() - started)
                finally:
                    await agent.stop()
        finally:
            cluster.close(held)
