"""Owns what stands in for the world's end of a conductor: the work itself, and whoever listens."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import msgspec

from agent.bus import announce
from agent.conductor import conductor, scribe
from agent.execution import base
from protocol import artifacts, codec, events, problems, subjects
from stages import registry
from tests.ownership import wires


class Nobody:
    """What outlives an agent: nothing."""

    async def find(self, _works: Any) -> frozenset[Any]:
        return frozenset()

    async def end(self, _works: Any) -> None: ...


class Began(msgspec.Struct, frozen=True):
    """An attempt began, and what the journal said of it just then."""

    agent: str
    key: Any
    epoch: int
    has_effects: bool
    journaled: bool

    @property
    def early(self) -> bool:
        """Tell whether something outside may have been changed before the journal said so."""
        return self.has_effects and not self.journaled


class Announcer(announce.Announcer):
    """Announces to nobody, and notes what was not stored by then."""

    def __init__(self, world: Any, client: wires.Client) -> None:
        super().__init__(client, subjects.Subjects())
        self._world = world

    async def commit(self, commit: events.Commit, _: str | None = None) -> None:
        data = codec.encode(commit)
        if data not in self._world.journals().get(commit.run_id, []):
            self._world.unstored.append(f"{commit.run_id} {commit.number} by {commit.owner}")

    async def alert(self, alert: Any) -> None: ...

    async def progress(self, told: Any) -> None: ...


class Executor:
    """Does nothing, for a while; what changes something outside looks at the journal first."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._works: dict[Any, Any] = {}
        self._stops: dict[Any, asyncio.Event] = {}

    async def run(self, work: Any, watcher: base.Watcher) -> base.Outcome:
        world = self._agent.world
        stop = self._stops[work.key] = asyncio.Event()
        self._works[work.key] = work
        self._note(work)
        watcher.began()
        takes = world.chance.choice([0.0, 0.01, 0.5, 3.0])
        try:
            async with asyncio.timeout(takes):
                await stop.wait()
            return base.Halted("asked", self._agent.name)
        except TimeoutError:
            failed = world.chance.randrange(8) == 0
            return _failure() if failed else base.Succeeded(_outputs(work.use))
        finally:
            self._stops.pop(work.key, None)

    def _note(self, work: Any) -> None:
        world, key = self._agent.world, work.key
        effects = work.use == "service.ship"
        started = any(
            isinstance(fact, events.StageStarted)
            and (fact.stage, fact.attempt) == (key.stage, key.attempt)
            for fact in world.facts(key.run_id)
        )
        world.began.append(Began(self._agent.name, key, work.epoch, effects, started))

    async def stop(self, key: Any, *, force: bool) -> None:  # noqa: ARG002 - the contract's
        if key in self._stops:
            self._judge(self._works[key])
            self._stops[key].set()

    def _judge(self, work: Any) -> None:
        """See that no agent stops a training that has been another's for some time."""
        world = self._agent.world
        since = world.now() - dt.timedelta(seconds=scribe.FRESH_S)
        skews = {agent.name: agent.now() - world.now() for agent in world.agents}
        newer = any(
            isinstance(fact, events.RunRecovered)
            and fact.epoch > work.epoch
            and fact.at - skews[fact.owner] < since
            for fact in world.facts(work.key.run_id)
        )
        if newer and work.placement in conductor.SHARED:
            world.stolen.append(f"{work.key} by {self._agent.name} of epoch {work.epoch}")

    async def close(self) -> None: ...


def _outputs(use: str) -> dict[str, artifacts.ArtifactRef]:
    """Refer to outputs that nobody reads."""
    return {
        port.name: artifacts.ArtifactRef(port.kind, f"sha256:{'0' * 64}", "x:", "a/b", 1)
        for port in registry.get(use).outputs
    }


def _failure() -> base.Failed:
    return base.Failed(problems.Problem("transient", "by chance", retryable=True))
