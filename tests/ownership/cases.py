"""Owns what a run goes through when it changes hands: it is at work, lost, taken, judged."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime as dt
import pathlib
import signal

import psutil

from agent import config
from protocol import client, events
from scripts.chaos_parts import judge
from tests.service import helpers
from tests.service.agent_process import Agent
from tests.service.helpers import stage

LEASE_S = 2.0
"""Tight: another agent must have a dead one's runs within three seconds."""
WITHIN = dt.timedelta(seconds=LEASE_S + 1)


TAKEN = events.RunStarted | events.RunRecovered


class Case:
    """Agents in processes of their own, a run between them, and all that happened to it."""

    def __init__(self, folder: pathlib.Path, broker: str, ray: str, ask: client.Client) -> None:
        self.ask = ask
        self.trace = folder / "trace"
        self.go = folder / "go"
        self._folder, self._broker, self._ray = folder, broker, ray
        self._store = (folder / "artifacts").as_uri()
        self._agents: list[Agent] = []

    async def agent(self, name: str, url: str = "") -> Agent:
        """Start an agent; all are given one broker, cluster and store."""
        settings = helpers.settings(
            self._folder / name,
            agent_id=name,
            nats=config.Nats(url=url or self._broker),
            ray=config.Ray(address=self._ray, workers=2),
            runs=config.Runs(lease_s=LEASE_S),
            artifacts=config.Artifacts(uri=self._store),
        )
        self._agents.append(Agent(self._folder, settings))
        await self._agents[-1].start()
        return self._agents[-1]

    async def close(self) -> None:
        for agent in self._agents:
            with contextlib.suppress(ProcessLookupError):
                agent.process and agent.send(signal.SIGCONT)
            await agent.kill()

    async def at_work(self, *, deaf: bool = False) -> tuple[str, int]:
        """Have a run at work whose journal says so; give its id and the worker's process."""
        run_id = await helpers.submit(self.ask, *self._stages(deaf=deaf))
        pid = int((await helpers.wait_line(self.trace, "b began")).split()[-1])
        await helpers.wait_event(self.ask, run_id, events.StageStarted, "b")
        return run_id, pid

    def _stages(self, *, deaf: bool):
        """Describe a, b and a stage with effects outside, of which b waits for a file."""

        def work(stage_id, use="service.work", *, after=None, **params):
            needs = {"inputs": {"report": after}} if after else {}
            return stage(stage_id, use, {"trace": str(self.trace), **params}, **needs)

        return [
            work("a", name="a"),
            work("b", after="a", name="b", until=str(self.go), deaf=deaf),
            work("ship", "service.ship", after="b"),
        ]

    def count(self) -> collections.Counter[str]:
        """Count how often each stage began."""
        told = helpers.lines(self.trace)
        return collections.Counter(line.split()[0] for line in told if "began" in line)

    async def taken(self, run_id: str, since: dt.datetime, within: dt.timedelta = WITHIN) -> None:
        """Wait until the second agent has the run, and see that it came in time."""
        recovered = await helpers.wait_event(self.ask, run_id, events.RunRecovered)
        assert recovered.owner == "second"
        assert recovered.at - since < within

    async def adopted(self, run_id: str, times: int = 1) -> None:
        """Wait until an agent has gone on with b, under the number that it had."""
        async with asyncio.timeout(helpers.WAIT_S):
            async for entry in self.ask.follow(run_id):
                told = entry.event
                if isinstance(told, events.StageStarted) and told.adopted:
                    assert (told.stage, told.attempt) == ("b", 1)
                    times -= 1
                if not times:
                    return

    async def goes_on(self, run_id: str) -> None:
        """Let the run go on to its end, and see that nothing was done twice."""
        self.go.touch()
        assert await self.owner_at_end(run_id) == "second"
        count = self.count()
        assert (count["a"], count["b"], count["shipped"]) == (1, 1, 1)
        assert (await self.judged(run_id)).findings == []

    async def judged(self, *accepted: str) -> judge.Verdict:
        """Judge everything that happened on the broker."""
        return await judge.verdict(self._broker, self._store, accepted)

    async def takes_new_work(self, agent: str, other: Agent) -> None:
        """See that an agent takes runs again, once the other is gone."""
        await other.kill()
        run_id = await self.ask.enqueue(helpers.request(stage("n", "sample.noop")))
        assert await self.owner_at_end(run_id) == agent

    async def owner_at_end(self, run_id: str) -> str:
        """Wait until a run has succeeded, and give who had it then; no agent is asked."""
        told = await helpers.story(self.ask, run_id)
        assert isinstance(told[-1], events.RunSucceeded)
        return [one.owner for one in told if isinstance(one, TAKEN)][-1]


def workers() -> set[int]:
    """Give the processes of all workers on this machine."""
    found = psutil.process_iter(["cmdline"])
    return {one.pid for one in found if (one.info["cmdline"] or [""])[0].startswith("ray::Worker")}


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
