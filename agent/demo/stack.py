"""Owns the agent under a demo: a running one if there is one, else a child that ends with us."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator

from agent import address, children
from agent.cli import console, ending, session
from agent.serving import place

READY_S = 60.0
POLL_S = 0.05


@contextlib.asynccontextmanager
async def running(here: session.Session) -> AsyncIterator[address.Address]:
    """Give the address of an agent while the context lasts."""
    there = found(here)
    if there is not None:
        yield there
        return
    folder = here.settings.data_path
    folder.mkdir(parents=True, exist_ok=True)
    served = place.read(place.folder(folder)) is not None
    child = await children.start(_command(here), folder / "agent.log")
    try:
        yield await _wait_ready(here, child)
    finally:
        await children.stop(child)
        if not served:  # its serving host is no child of it; one that was there before stays
            await asyncio.to_thread(ending.end, folder)


def found(here: session.Session) -> address.Address | None:
    """Find an agent that runs already."""
    try:
        return here.find_agent()
    except console.Stop:
        return None


def _command(here: session.Session) -> list[str]:
    """Start the same configuration, with logs that are JSON."""
    command = [sys.executable, "-m", "agent", "up", "--set", "logs.format=json"]
    if here.options.config:
        command += ["--config", str(here.options.config)]
    return command + [word for text in here.options.overrides for word in ("--set", text)]


async def _wait_ready(here: session.Session, child: asyncio.subprocess.Process) -> address.Address:
    log = here.settings.data_path / "agent.log"
    deadline = time.monotonic() + READY_S
    while True:
        if time.monotonic() > deadline:
            console.stop("unavailable", f"not ready within {READY_S:.0f} s; see {log}")
        if child.returncode is not None:
            console.stop("unavailable", f"the agent ended while it started; see {log}")
        there = address.read(here.settings.data_path)
        if there is not None and there.pid == child.pid:
            return there
        await asyncio.sleep(POLL_S)
