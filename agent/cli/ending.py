"""Owns the end of what runs for a data folder: the agent, then its serving host."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import time

from agent import address
from agent.cli import console
from agent.serving import place

WITHIN_S = 60.0
_LOOK_S = 0.1


def end(data: pathlib.Path) -> dict[str, int]:
    """End what runs, and wait until it has; give what it was."""
    ended: dict[str, int] = {}
    agent = address.read(data)
    if agent is not None and _is_there(agent.pid):
        _stop("the agent", agent.pid)
        ended["agent"] = agent.pid
    host = place.read(place.folder(data))  # it holds its folder: its number is no other's
    if host is not None:
        _stop("the serving host", host.pid)
        ended["serving host"] = host.pid
    return ended


def _stop(what: str, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + WITHIN_S
    while _is_there(pid):
        if time.monotonic() > end:
            console.stop("timeout", f"{what} (process {pid}) has not ended after {WITHIN_S:g} s")
        time.sleep(_LOOK_S)


def _is_there(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
