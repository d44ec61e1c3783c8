"""Owns an agent in a process of its own, the serving host that it starts, and ways to ask both."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import subprocess
import sys

import httpx
import psutil

from agent import address
from agent.cli import ending
from agent.serving import place
from protocol import client, serving
from scripts import agents
from tests.service import helpers

SETTINGS = (
    "ray.cpus=2",
    "ray.workers=1",
    "serving.cpus=2",
    "specialist.embedded=false",
    "runs.lease_s=2",
    "logs.format=json",
)
WAIT_S = 90.0


class Place:
    """One data folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.data = folder / "one"
        self.own = place.folder(self.data)
        self.agent = agents.Agent("one", folder, SETTINGS, stages="tests.serving.sample_stages")
        self.http = httpx.AsyncClient(timeout=30)

    @contextlib.asynccontextmanager
    async def asking(self):
        """Give a client of the agent that runs now: its bus has another port after each start."""
        async with client.connect(address.read(self.data).nats_url, timeout_s=30) as ask:
            yield ask

    @property
    def host(self) -> place.Note:
        return place.read(self.own)

    async def deploy(self, ask, name, slope, *, x=None, **params):
        """Train, register and deploy a line; give the run's status and events."""
        fit = helpers.stage("fit", "serving.fit", {"slope": slope})
        keep = helpers.stage("keep", "register.model", {"name": name}, inputs={"model": "fit"})
        inputs = {"model": "fit", "registered": "keep"}
        rows = [] if x is None else [helpers.stage("rows", "serving.rows", {"x": x})]
        inputs |= {} if x is None else {"rows": "rows"}
        go = helpers.stage("go", "deploy.model", {"name": name, **params}, inputs=inputs)
        run_id = await helpers.submit(ask, fit, keep, *rows, go)
        async with asyncio.timeout(WAIT_S):
            told = [entry.event async for entry in ask.follow(run_id)]
        return await ask.status(run_id), told

    async def post(self, name, body, url=""):
        where = url or self.host.url
        return await self.http.post(f"{where}/v1/models/{name}:predict", content=body)

    async def slope(self, name):
        """Say which model answers over HTTP, and which version it says that it is."""
        answer = await self.post(name, b'{"row": {"x": 1}}')
        assert answer.status_code == 200, answer.text
        (said,) = answer.json()["predictions"]
        return round(said, 6), answer.headers[serving.MODEL_VERSION]

    async def wait_slope(self, name):
        """Wait until a model answers again; until then it is not ready, and never unknown."""
        url = (await wait_until(lambda: self.host)).url
        async with asyncio.timeout(WAIT_S):
            while not await self._ready(name, url):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.05)
        return await self.slope(name)

    async def _ready(self, name, url) -> bool:
        try:
            answer = await self.post(name, b'{"row": {"x": 1}}', url)
        except httpx.TransportError:
            return False
        assert answer.status_code in {200, 503}, answer.text
        return answer.status_code == 200

    def replicas(self) -> set[int]:
        """Give the processes of all replicas."""
        return {one.pid for one in self.tree() if "ServeReplica" in " ".join(_line(one))}

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.host.pid).children(recursive=True)

    def mlpm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLPM_")}
        return subprocess.run(
            [sys.executable, "-m", "agent", *arguments, "--set", f"data_dir={self.data}"],
            cwd=agents.ROOT,
            env=clean | {"PYTHONPATH": str(agents.ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    async def close(self) -> None:
        """End everything, whatever state it is in."""
        await self.http.aclose()
        await self.agent.stop()
        await asyncio.to_thread(ending.end, self.data)


def _line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


async def wait_until(condition):
    """Wait until a condition holds that other processes bring about, and give what it gave."""
    async with asyncio.timeout(WAIT_S):
        while not (found := condition()):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)
    return found
