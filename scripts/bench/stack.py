"""Owns what is measured: a bus, a Ray cluster that floors share, an agent of its own process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator

import msgspec

from agent import address, children, config
from agent.bus import server
from agent.execution import cluster

HERE = pathlib.Path(__file__).parent


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
    os.environ["PYTHONPATH"] = f"{HERE}:{HERE.parents[1]}"  # for the agent and for Ray's workers
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        held = cluster.start(config.Ray(), folder)
        try:
            async with server.EmbeddedServer(folder / "nats") as bus:
                process, ready = await _agent(folder, bus.url, held.address)
                try:
                    yield Stack(bus.url, process.pid, ready)
                finally:
                    await children.stop(process)
        finally:
            cluster.close(held)


async def _agent(
    folder: pathlib.Path, bus: str, ray: str
) -> tuple[asyncio.subprocess.Process, float]:
    data = folder / "agent"
    data.mkdir()
    command = [sys.executable, "-m", "agent", "up", "--stages", "noop_stages"]
    for setting in (
        f"data_dir={data}",
        f"nats.url={bus}",
        f"ray.address={ray}",
        "specialist.embedded=false",
        "logs.level=error",
    ):
        command += ["--set", setting]
    started = time.perf_counter()
    process = await children.start(command, folder / "agent.log")
    while not (data / address.FILE).exists():
        if process.returncode is not None:
            raise RuntimeError((folder / "agent.log").read_text())
        await asyncio.sleep(0.01)
    return process, time.perf_counter() - started
