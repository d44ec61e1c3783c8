"""Counts failed requests, and how long they took, while versions of a model replace each other."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import measure
import psutil

HERE = pathlib.Path(__file__).parent
PATH = f"{HERE}:{HERE.parents[1]}"
sys.path.append(str(HERE.parents[1]))

from agent import address, tasks  # noqa: E402 - the scripts are no package that is installed
from agent.cli import ending  # noqa: E402
from agent.serving import place  # noqa: E402
from protocol import client, events  # noqa: E402
from scripts import agents  # noqa: E402

REQUESTS, CLIENTS = 5_000, 4
BODY = b'{"row": {"x": 1}}'
SETTINGS = ("ray.workers=1", "specialist.embedded=false", "logs.level=error")
CANARY = {"steps": [10, 50], "hold_s": 3, "min_requests": 100, "max_latency_ratio": 5}
HELD = {**CANARY, "hold_s": 600}


class Load:
    """Clients that ask all the while, one request after the other each."""

    def __init__(self, url: str) -> None:
        self.took: list[float] = []
        self.failed: collections.Counter[str] = collections.Counter()
        self._url = url

    async def client(self, http: httpx.AsyncClient) -> None:
        """Ask until cancelled."""
        while True:
            began = time.perf_counter()
            try:
                answer = await http.post(self._url, content=BODY)
            except httpx.TransportError as error:
                self.failed[type(error).__name__] += 1
                continue
            self.took.append(time.perf_counter() - began)
            if answer.status_code != httpx.codes.OK:
                self.failed[str(answer.status_code)] += 1

    async def wait_asked(self, count: int) -> None:
        """Wait until so many were asked."""
        while len(self.took) < count:  # noqa: ASYNC110 - tasks of this loop
            await asyncio.sleep(0.1)

    def tell(self, what: str) -> None:
        """Print what came of it."""
        cuts = statistics.quantiles(self.took, n=100)
        asked, failed = len(self.took), self.failed.total()
        times = f"p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms"
        print(f"{what}: {failed} of {asked} failed {dict(self.failed) or ''}")
        print(f"    {times}, longest {max(self.took) * 1e3:.1f} ms")


async def main() -> None:
    """Measure."""
    measure.heading()
    os.environ["PYTHONPATH"] = PATH
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        agent = agents.Agent("bench", folder, SETTINGS, stages="tests.serving.sample_stages")
        await agent.start()
        try:
            async with client.connect(address.read(folder / "bench").nats_url) as ask:
                await _all(ask, folder / "bench")
        finally:
            await agent.stop()
            await asyncio.to_thread(ending.end, folder / "bench")


async def _all(ask: client.Client, data: pathlib.Path) -> None:
    url = await _deploy(ask, 1.0)

    async def nothing() -> None:
        """Let the version that serves answer alone, as a floor."""

    async def replaced() -> None:
        await _deploy(ask, 2.0, canary=CANARY)
        await _deploy(ask, 3.0, canary=CANARY)

    async def rolled_back() -> None:
        await ask.roll_back("line")
        await ask.roll_back("line")

    async def killed() -> None:
        await _killed(ask, data)

    async with httpx.AsyncClient(timeout=30) as http:
        for what, work in (
            ("one version alone", nothing),
            ("two canaries that take over", replaced),
            ("two rollbacks by hand, the second to a version that is started", rolled_back),
            ("a canary whose process is killed", killed),
        ):
            await _under_load(http, url, what, work)


async def _under_load(
    http: httpx.AsyncClient, url: str, what: str, work: Callable[[], Awaitable[None]]
) -> None:
    async with _asking(http, url) as load:
        await work()
        await load.wait_asked(REQUESTS)
    load.tell(what)


@contextlib.asynccontextmanager
async def _asking(http: httpx.AsyncClient, url: str) -> AsyncIterator[Load]:
    load = Load(url)
    clients = [asyncio.create_task(load.client(http)) for _ in range(CLIENTS)]
    try:
        yield load
    finally:
        await tasks.end(*clients)


async def _begin(ask: client.Client, slope: float, canary: dict[str, object] | None) -> str:
    stages = [
        {"id": "fit", "use": "serving.fit", "with": {"slope": slope}},
        {
            "id": "go",
            "use": "deploy.model",
            "with": {"name": "line"} | ({"canary": canary} if canary else {}),
            "inputs": {"model": "fit"},
        },
    ]
    accepted = await ask.submit(pipeline={"name": "bench", "stages": stages})
    return accepted.run_id


async def _deploy(ask: client.Client, slope: float, canary: dict[str, object] | None = None) -> str:
    """Deploy a version; give its URL."""
    run_id = await _begin(ask, slope, canary)
    async for entry in ask.follow(run_id):
        if isinstance(entry.event, events.StageDeployed):
            return entry.event.url
    status = await ask.status(run_id)
    raise RuntimeError(status.problem)


async def _killed(ask: client.Client, data: pathlib.Path) -> None:
    before = _replicas(data)
    run_id = await _begin(ask, 4.0, HELD)
    async for entry in ask.follow(run_id):
        if isinstance(entry.event, events.StageShifted) and entry.event.phase == "canary":
            await asyncio.sleep(1)  # under load
            for pid in _replicas(data) - before:
                os.kill(pid, signal.SIGKILL)
    print("   ", (await ask.status(run_id)).problem)


def _replicas(data: pathlib.Path) -> set[int]:
    found = place.read(place.folder(data))
    if found is None:
        return set()
    tree = psutil.Process(found.pid).children(recursive=True)
    return {one.pid for one in tree if "ServeReplica" in " ".join(one.cmdline())}


if __name__ == "__main__":
    asyncio.run(main())
