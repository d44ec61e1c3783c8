"""Owns what is fuzzed: a bus and an agent, each a process of its own, in a folder of its own."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import AsyncIterator

import msgspec

from agent.bus import server
from scripts import agents

AGENT_ID = "fuzzed"
_SETTINGS = (
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
    agent: agents.Agent


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Stack]:
    """Start it all, and stop it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        (folder / "data").mkdir()
        async with server.EmbeddedServer(folder / "nats") as bus:
            settings = (f"nats.url={bus.url}", f"access.data_roots={folder / 'data'}", *_SETTINGS)
            agent = agents.Agent(AGENT_ID, folder, settings, stages="scripts.fuzz_parts.stages")
            try:
                await agent.start()
                yield Stack(bus.url, agent)
            finally:
                await agent.stop()
