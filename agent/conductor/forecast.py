"""Owns the forecast of what a run would take from the cache, without running anything.

The run core itself is walked through the run: what the cache has is told to it as done, what the
cache lacks stays at work. So what is looked up is what the run would look up, key for key.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime as dt
from typing import Literal

import msgspec
import structlog

from agent import catalog
from agent.artifacts import cache
from agent.execution import identity
from agent.run import effects, machine, plan, state, stimuli, units
from protocol import commands, events, pipelines

log = structlog.get_logger(__name__)

PATIENCE_S = 3.0
"""What is not looked up by then is unknown: whoever asks waits for five seconds."""
_NAME = "forecast"
_NOW = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""The core wants a time; nothing here depends on it."""


class _Lack(msgspec.Struct, frozen=True):
    """Why a piece of work would not be taken from the cache, or why nobody can tell."""

    reuse: Literal["miss", "unknown"]
    reason: str


async def forecast(
    pipeline: pipelines.Pipeline,
    options: pipelines.Options,
    stages: catalog.Catalog,
    steps: cache.Cache,
    identities: identity.Identities,
    *,
    patience_s: float = PATIENCE_S,
) -> list[commands.CacheForecast]:
    """Say for each stage, in the pipeline's order, whether a run would take it from the cache.

    A gate counts as approved. What follows a stage that would run is unknown, and so is a stage
    that would be skipped: neither taken nor run.
    """
    planned = await asyncio.to_thread(stages.plan, _without_waits(pipeline))
    walk = _Walk(planned, options, steps, identities)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await walk.go()
    return [
        _told(walk, index, gated=stage.approval is not None)
        for index, stage in enumerate(pipeline.stages)
    ]


class _Walk:
    """A run in which nothing is done that was not done before."""

    def __init__(
        self,
        planned: plan.Plan,
        options: pipelines.Options,
        steps: cache.Cache,
        identities: identity.Identities,
    ) -> None:
        accepted = events.RunAccepted(
            at=_NOW,
            run_id=_NAME,
            request_id=_NAME,
            requester=_NAME,
            pipeline=planned.pipeline,
            options=msgspec.structs.replace(options, max_parallel=None, deadline_s=None),
        )
        self.run = state.RunState.from_accepted(accepted, planned)
        self.lacks: dict[str, list[_Lack]] = collections.defaultdict(list)
        """By stage: one for each piece of work that was looked up and is not to be had."""
        self._machine = machine.Machine(planned, self.run)
        self._steps = steps
        self._identities = identities
        self._makers: dict[str, str] = {}
        """By key: the stage that would be the first to do that work."""

    async def go(self) -> None:
        """Look up all that would be started before something is really done."""
        waiting = collections.deque(self._feed(stimuli.Taken(_NAME, 1)))
        while waiting:
            work = waiting.popleft()
            found = await asyncio.to_thread(self._look, work)
            if isinstance(found, _Lack):
                self.lacks[work.key.stage].append(found)
            else:
                made = stimuli.WorkSucceeded(work.key, found.outputs, found.metrics, cached=True)
                waiting.extend(self._feed(made))

    def _feed(self, stimulus: stimuli.Stimulus) -> list[effects.Work]:
        _, wanted = self._machine.handle(stimulus, _NOW, _NAME)
        return [effect.work for effect in wanted if isinstance(effect, effects.Launch)]

    def _look(self, work: effects.Work) -> cache.Record | _Lack:
        """Find what was made before, or say why it would not be taken. Blocks."""
        reason = identity.excluded(work)
        if reason is not None:
            return _Lack("miss", reason)
        known = self._identities.of(work)
        if isinstance(known, identity.Unknowable):
            return _Lack("miss", known.reason)
        try:
            return self._found(work, known) or self._lack(work, known)
        except Exception:
            log.warning("cache.not_read", stage=work.key.stage, key=known.key, exc_info=True)
            return _Lack("unknown", "the cache cannot be read")

    def _found(self, work: effects.Work, known: identity.Known) -> cache.Record | None:
        return self._steps.lookup(work.use, known.key) if work.cache == "use" else None

    def _lack(self, work: effects.Work, known: identity.Known) -> _Lack:
        stage = work.key.stage
        maker = self._makers.setdefault(known.key, stage)
        if work.cache == "refresh":
            return _Lack("miss", "it is to be made anew")
        if maker != stage:
            return _Lack("unknown", f"stage {maker!r} does the same work, and does it first")
        if stage in self.lacks:
            return _Lack("miss", "")  # of a fan-out's elements the first says why
        return _Lack("miss", self._why(work, known))

    def _why(self, work: effects.Work, known: identity.Known) -> str:
        if self._steps.find(work.use, known.key) is not None:
            return "it was made before, but what it made is no longer there, or not whole"
        found = self._steps.explain(work.use, known.components)
        if not found:
            return "nothing like it has been done before"
        names = ", ".join(difference.component for difference in found)
        return f"{names} differed in the most similar earlier work"


def _without_waits(pipeline: pipelines.Pipeline) -> pipelines.Pipeline:
    """Take out what only makes a run wait: gates, and limits on what is done at once."""
    return msgspec.structs.replace(
        pipeline, stages=[_without_wait(stage) for stage in pipeline.stages]
    )


def _without_wait(stage: pipelines.Stage) -> pipelines.Stage:
    each = stage.for_each
    wide = each and msgspec.structs.replace(each, max_parallel=None)
    return msgspec.structs.replace(stage, approval=None, for_each=wide)


def _told(walk: _Walk, index: int, *, gated: bool) -> commands.CacheForecast:
    """Tell of one stage what the walk has come to."""
    stage = walk.run.stages[index]
    name = walk.run.spec(stage).id
    if stage.cached:
        return commands.CacheForecast(name, "hit", "once it is approved" if gated else "")
    lacks = walk.lacks.get(name)
    if lacks:
        first = next((lack for lack in lacks if lack.reuse == "miss"), lacks[0])
        return commands.CacheForecast(name, first.reuse, _part_of_fan(stage) + first.reason)
    return commands.CacheForecast(name, "unknown", _untold(walk.run, stage))


def _part_of_fan(stage: units.StageRun) -> str:
    if stage.units is None:
        return ""
    return f"{stage.succeeded} of {len(stage.units)} elements are there; "


def _untold(run: state.RunState, stage: units.StageRun) -> str:
    """Say why nothing is known of a stage's own work."""
    match stage.state:
        case "succeeded":
            return "there are no elements, so nothing is done"
        case "skipped":
            return f"it would be skipped: {stage.reason}"
        case "failed" if stage.problem is not None:
            return f"it would fail: {stage.problem.message}"
        case "running":
            return "there was no time to look it up"
        case _:
            return _waited_for(run, stage)


def _waited_for(run: state.RunState, stage: units.StageRun) -> str:
    """Say what keeps a stage from its turn."""
    if run.plan.users[stage.stage] and not run.activated[stage.stage]:
        return "it runs only as a fallback"
    before = (up for up in run.plan.depends[stage.stage] if not run.resolved(up))
    name = next((run.plan.stages[up].id for up in before), None)
    if name is None:
        return "the run would end before it"
    return f"it depends on stage {name!r}, whose outcome is not known before the run"
