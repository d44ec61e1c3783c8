"""Owns the processes of workers: their end, and the proof of it, wherever they run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import platform
import signal
from collections.abc import Iterable
from typing import Any

from agent.execution import worker

GONE_WITHIN_S = 10.0
_POLL_S = 0.005


class Unkillable(Exception):
    """A killed worker is still there."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the worker {where} was killed {GONE_WITHIN_S:g} s ago and still runs")
        self.where = where


def end(who: worker.Identity) -> list[Any]:
    """End a process without asking Ray, if it runs on this machine; give what it had started."""
    if not _is_here(who):
        return []
    started = _children(who.pid)
    if is_alive(who.pid, who.created):
        with contextlib.suppress(ProcessLookupError):
            os.kill(who.pid, signal.SIGKILL)
    for child in started:  # after it: it must not take their end for a result
        with contextlib.suppress(Exception):  # it may be gone by now
            child.kill()
    return started


async def wait_gone(who: worker.Identity, started: Iterable[Any]) -> None:
    """Return once a process, and what it started, is proved gone; raises Unkillable."""
    try:
        async with asyncio.timeout(GONE_WITHIN_S):
            while any(map(_runs, started)) or not await _is_gone(who):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise Unkillable(who.where) from None


async def _is_gone(who: worker.Identity) -> bool:
    return not is_alive(who.pid, who.created) if _is_here(who) else await _is_gone_there(who)


def _is_here(who: worker.Identity) -> bool:
    import ray

    return who.node == ray.get_runtime_context().get_node_id() and who.host == platform.node()


def is_alive(pid: int, created: float) -> bool:
    """Say whether that very process runs; a zombie does not."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _children(pid: int) -> list[Any]:
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _runs(process: Any) -> bool:
    """Say whether a process that was seen before still runs; a zombie does not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _is_gone_there(who: worker.Identity) -> bool:
    """Have the node of a worker look; a dead node runs nothing."""
    import ray

    try:
        return not await (await asyncio.to_thread(_look_there, who))
    except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
        return True


def _look_there(who: worker.Identity) -> Any:
    """Begin a look; waits for the cluster's head, which is told of the function."""
    from ray.util import scheduling_strategies

    there = scheduling_strategies.NodeAffinitySchedulingStrategy(who.node, soft=False)
    look = _exported().options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return look.remote(who.pid, who.created)


@functools.cache
def _exported() -> Any:
    import ray

    return ray.remote(is_alive)
