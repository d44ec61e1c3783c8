"""How long a run is without an owner: from kill -9 of its agent to the next owner's first commit.

`bench_takeover.py [ROUNDS]` measures it at the default lease and at a tight one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time

import measure
import stack

from agent import config
from agent.bus import server
from agent.execution import cluster
from protocol import client, events

SETTINGS = {"default": (config.Runs().lease_s, 15.0), "tight": (2.0, 3.0)}
"""Of each, the lease and the bound, in seconds."""
STAGE = {"id": "wait", "use": "bench.wait"}


class Site:
    """A bus, a cluster, and agents on them that can be killed."""

    def __init__(self, folder: pathlib.Path, bus: str, ray: str, lease_s: float) -> None:
        self._folder, self._lease_s = folder, lease_s
        self.bus, self._ray = bus, ray
        self._agents: dict[str, stack.agents.Agent] = {}
        self._count = 0

    async def add(self) -> None:
        """Start one more agent, and wait until it is ready."""
        self._count += 1
        name = f"agent-{self._lease_s:g}-{self._count}".replace(".", "-")
        settings = (
            f"nats.url={self.bus}",
            f"ray.address={self._ray}",
            "ray.workers=1",
            f"runs.lease_s={self._lease_s}",
            f"artifacts.uri={(self._folder / 'artifacts').as_uri()}",
            "specialist.embedded=false",
            "logs.level=error",
        )
        self._agents[name] = stack.agents.Agent(
            name, self._folder, settings, stages="noop_stages", env={"PYTHONPATH": stack.PATH}
        )
        await self._agents[name].start()

    async def kill(self, name: str) -> float:
        """Kill an agent, and say when."""
        at = time.time()
        await self._agents.pop(name).kill()
        return at

    async def close(self) -> None:
        """Stop the agents that are left."""
        for agent in self._agents.values():
            await agent.stop()


async def taken(ask: client.Client, run_id: str, seen: int) -> events.RunStarted:
    """Wait until a run has been taken once more than `seen` times."""
    found = 0
    async for entry in ask.follow(run_id):
        if isinstance(entry.event, events.RunStarted | events.RunRecovered):
            if found == seen:
                return entry.event
            found += 1
    raise AssertionError


async def measured(site: Site, rounds: int) -> list[float]:
    """Kill the owner of one run again and again."""
    await site.add()
    gaps = []
    async with client.connect(site.bus) as ask:
        pipeline = {"name": "takeover", "stages": [STAGE]}
        run_id = (await ask.submit(client.make_request(pipeline=pipeline))).run_id
        owner = (await taken(ask, run_id, 0)).owner
        for turn in range(rounds):
            await site.add()
            await asyncio.sleep(0.37 * (turn + 1))  # at different times between two renewals
            at = await site.kill(owner)
            heir = await taken(ask, run_id, turn + 1)
            owner = heir.owner
            gaps.append(heir.at.timestamp() - at)
        await ask.cancel(run_id, grace_s=0)
    return gaps


async def main(rounds: int) -> None:
    """Measure, and print."""
    os.environ["PYTHONPATH"] = stack.PATH
    measure.heading()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        held = cluster.start(config.Ray(), folder)
        try:
            for kind, (lease_s, bound_s) in SETTINGS.items():
                async with server.EmbeddedServer(folder / kind) as bus:
                    site = Site(folder, bus.url, held.address, lease_s)
                    async with contextlib.AsyncExitStack() as closing:
                        closing.push_async_callback(site.close)
                        tell(kind, lease_s, bound_s, await measured(site, rounds))
        finally:
            cluster.close(held)


def tell(kind: str, lease_s: float, bound_s: float, gaps: list[float]) -> None:
    """Print what one setting gave; there is no floor, but a bound."""
    told = f"{statistics.median(gaps):6.2f} s [{min(gaps):.2f}, {max(gaps):.2f}]"
    kept = "kept" if max(gaps) < bound_s else "BROKEN"
    print(f"take-over, {kind} (lease {lease_s:g} s)   {told}   bound {bound_s:g} s {kept}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
