"""Measures a chain and a fan-out of no-op stages against the same plain Ray tasks."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import measure
import stack

from protocol import client, events

ROUNDS = 5
CHAIN, WIDE = 100, 500


def chain() -> dict[str, Any]:
    """Lay stages one after the other."""
    stages = [{"id": "s0", "use": "bench.noop"}]
    for number in range(1, CHAIN):
        inputs = {"before": f"s{number - 1}"}
        stages.append({"id": f"s{number}", "use": "bench.noop", "inputs": inputs})
    return {"name": "chain", "stages": stages}


def wide() -> dict[str, Any]:
    """Lay one stage that fans out."""
    items = {"id": "items", "use": "bench.items", "with": {"count": WIDE}}
    each = {"id": "each", "use": "bench.noop", "for_each": {"items": "items", "as": "item"}}
    return {"name": "wide", "stages": [items, each]}


async def main() -> None:
    """Measure."""
    measure.heading()
    async with stack.running() as running:
        await _measure(running.url)


async def _measure(url: str) -> None:
    import ray

    @ray.remote
    def noop(before: list[int]) -> list[int]:
        return before

    async def tasks_in_a_row() -> None:
        value = [0]
        for _ in range(CHAIN):
            value = await noop.remote(value)

    async def tasks_at_once() -> None:
        await asyncio.gather(*(noop.remote([number]) for number in range(WIDE)))

    numbers = itertools.count()
    async with client.connect(url) as agent:

        async def run(pipeline: dict[str, Any]) -> None:
            accepted = await agent.submit(
                pipeline=pipeline, options={"cache": "off"}, request_id=f"bench-{next(numbers)}"
            )
            last = [entry.event async for entry in agent.follow(accepted.run_id)][-1]
            assert isinstance(last, events.RunSucceeded), last

        costs, floors = await measure.against_floor(lambda: run(chain()), tasks_in_a_row, ROUNDS)
        measure.tell(f"a chain of {CHAIN} stages", costs, floors, limit=1)
        costs, floors = await measure.against_floor(lambda: run(wide()), tasks_at_once, ROUNDS)
        measure.tell(f"a fan-out of {WIDE}", costs, floors, limit=1)


if __name__ == "__main__":
    asyncio.run(main())
