"""Owns what is fuzzed: a bus and an agent, each a process of its own, in a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import AsyncIterator

import msgspec

from agent import address, children
from agent.bus import server

ROOT = pathlib.Path(__file__).parents[2]
AGENT_ID = "fuzzed"
_START_S = 60.0
_SETTINGS = (
    f"agent_id={AGENT_ID}",
    "ray.cpus=1",
    "ray.workers=1",
    "specialist.embedded=false",
    "logs.level=warning",
    "logs.format=json",
)


class Stack(msgspec.Struct, frozen=True):
    """What runs."""

    url: str
    """Of the bus."""
    pid: int
    """Of the agent."""
    log: pathlib.Path
    """Of the agent."""
    process: asyncio.subprocess.Process

    @property
    def lives(self) -> bool:
        """Tell whether the agent's process is there."""
        return self.process.returncode is None


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Stack]:
    """Start it all, and stop it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        async with server.EmbeddedServer(folder / "nats") as bus:
            process = await children.start(
                _command(folder, bus.url), folder / "agent.log", _environment()
            )
            try:
                await _wait_ready(process, folder)
                yield Stack(bus.url, process.pid, folder / "agent.log", process)
            finally:
                await children.stop(process)


def _command(folder: pathlib.Path, url: str) -> list[str]:
    (folder / "agent").mkdir()
    (folder / "data").mkdir()
    command = [sys.executable, "-m", "agent", "up", "--stages", "scripts.fuzz_parts.stages"]
    places = (f"data_dir={folder / 'agent'}", f"access.data_roots={folder / 'data'}")
    for setting in (f"nats.url={url}", *places, *_SETTINGS):
        command += ["--set", setting]
    return command


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLPM_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


async def _wait_ready(process: asyncio.subprocess.Process, folder: pathlib.Path) -> None:
    async with asyncio.timeout(_START_S):
        while not (folder / "agent" / address.FILE).exists():
            if process.returncode is not None:
                raise RuntimeError((folder / "agent.log").read_text())
            await asyncio.sleep(0.02)
