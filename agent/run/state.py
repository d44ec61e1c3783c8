"""Owns the state of a run: the fold of its events and nothing else.

`evolve` changes the state it is handed and returns it; it costs the event's stage and those that
depend on it, never the whole graph. Queues are part of the fold, so that a state made from a
journal goes on exactly where the one that wrote it stood.
"""

from __future__ import annotations

import collections
import datetime as dt
import heapq
from collections.abc import Iterator
from typing import Any

import msgspec

from agent.run import effects, errors, plan, times, transitions, units
from protocol import events, pipelines, problems

_STORY = 20


class RunState:
    """Everything a run has come to; made by `from_accepted`, changed by `evolve.evolve` alone."""

    def __init__(self, accepted: events.RunAccepted, plan_: plan.Plan) -> None:
        self.plan = plan_
        self.accepted = accepted
        self.run = "queued"
        self.owner: str | None = None
        self.epoch = 0
        self.started_at: dt.datetime | None = None
        self.ended_at: dt.datetime | None = None
        self.clock_from = accepted.at
        """What the deadline counts from: the acceptance, or the last resume."""
        self.problem: problems.Problem | None = None
        """The first failure that ends the run; nothing new is started once it is there."""
        self.cancel: events.CancelRequested | None = None
        self.cut = False
        """Something was stopped or never began: the run cannot succeed."""
        self.stopped: list[events.Stopped] = []
        self.code_version = accepted.code_version
        self.params = [stage.params for stage in plan_.stages]
        self.stages = [units.StageRun(i, len(deps)) for i, deps in enumerate(plan_.depends)]
        self.open = len(self.stages)
        """How many stages have not ended."""
        self.undecided = [len(users) for users in plan_.users]
        """By fallback: how many stages may still need it."""
        self.activated = [False] * len(self.stages)
        self.running: dict[units.Unit, None] = {}
        self.retrying: dict[units.Unit, None] = {}
        self.lost: dict[units.Unit, None] = {}
        """What was at work when its agent was lost, and has not been started again."""
        self.waiting: dict[int, None] = {}
        self.ready: list[tuple[int, int, int]] = []
        self.wake: list[tuple[dt.datetime, int, int]] = []
        self.due: collections.deque[int] = collections.deque()
        """Stages about which something must be said: a fan that is done, a fallback to use."""
        self.story: collections.deque[str] = collections.deque(maxlen=_STORY)
        self.steps = 0
        """How often a stage was looked at: what tests measure."""
        for index in range(len(self.stages)):
            self.offer(index)

    @classmethod
    def from_accepted(cls, event: events.RunAccepted, plan_: plan.Plan) -> RunState:
        """Begin with the run's first event."""
        return cls(event, plan_)

    @property
    def run_id(self) -> str:
        """Name the run."""
        return self.accepted.run_id

    @property
    def over(self) -> bool:
        """Tell whether the run has ended."""
        return self.run in transitions.OVER

    @property
    def parked(self) -> bool:
        """Tell whether only people can bring the run on: nothing of it is, or can be, at work."""
        busy = self.running or self.retrying or self.lost or self.outstanding()
        return self.run == "running" and bool(self.waiting) and not busy and not self.startable()

    @property
    def options(self) -> pipelines.Options:
        """Give how the run is to be treated."""
        return self.accepted.options

    def pipeline_with(self, params: dict[str, dict[str, Any]]) -> pipelines.Pipeline:
        """Give the pipeline as it would run with these parameters merged over the present ones."""
        stages = [
            msgspec.structs.replace(stage, params={**mine, **params.get(stage.id, {})})
            for stage, mine in zip(self.plan.stages, self.params, strict=True)
        ]
        return msgspec.structs.replace(self.plan.pipeline, stages=stages)

    def outstanding(self) -> bool:
        """Tell whether something must be said of a stage; what has been said is dropped."""
        while self.due:
            stage = self.stages[self.due[0]]
            unused = self.plan.fallbacks[stage.stage] is not None and not stage.stood_in
            if stage.state == "running" or (stage.state == "failed" and unused):
                return True
            self.due.popleft()
        return False

    def startable(self) -> bool:
        """Tell whether something is queued; entries that have lost their meaning are dropped."""
        while self.ready:
            _, element, stage = self.ready[0]
            unit = self.at(stage, element)
            if unit is not None and unit.queued:
                return True
            heapq.heappop(self.ready)
        return False

    @property
    def deadline(self) -> dt.datetime | None:
        """Give the moment when the run is stopped."""
        seconds = self.accepted.options.deadline_s
        return None if seconds is None else times.after(self.clock_from, seconds)

    def overdue(self, now: dt.datetime) -> bool:
        """Tell whether the deadline has passed."""
        return self.deadline is not None and now >= self.deadline

    def stopping(self, now: dt.datetime) -> bool:
        """Tell whether nothing new may be started."""
        return self.run == "cancelling" or self.problem is not None or self.overdue(now)

    def spec(self, unit: units.Unit) -> pipelines.Stage:
        """Give the stage as the pipeline has it."""
        return self.plan.stages[unit.stage]

    def key(self, unit: units.Unit) -> effects.WorkKey:
        """Name the last attempt."""
        name = self.plan.stages[unit.stage].id
        return effects.WorkKey(self.accepted.run_id, name, unit.element, unit.attempt)

    def unit(self, stage: str, element: int | None) -> units.Unit | None:
        """Find a stage or an element; None where there is no such thing."""
        index = self.plan.ids.get(stage)
        if index is None:
            return None
        found = self.stages[index]
        if element is None:
            return found
        inside = 0 <= element < len(found.units or ())
        return found.units[element] if found.units and inside else None

    def at_work(self, key: effects.WorkKey) -> units.Unit | None:
        """Find what an attempt works on; None if that attempt is over, or never was."""
        if self.over or key.run_id != self.accepted.run_id:
            return None
        unit = self.unit(key.stage, key.element)
        current = unit is not None and unit in self.running and unit.attempt == key.attempt
        return unit if current else None

    def stand_in(self, index: int) -> units.StageRun:
        """Follow fallbacks to the stage that answers for this one."""
        while self.stages[index].stood_in:
            fallback = self.plan.fallbacks[index]
            assert fallback is not None
            index = fallback
        return self.stages[index]

    def resolved(self, index: int) -> bool:
        """Tell whether what depends on a stage need wait for it no longer."""
        last = self.stand_in(index)
        skips = self.plan.stages[last.stage].on_failure == "skip"
        return last.state in ("succeeded", "skipped") or (last.state == "failed" and skips)

    def unended(self) -> Iterator[units.StageRun]:
        """Walk over the stages that have not ended; for the end of a run, since it walks all."""
        return (stage for stage in self.stages if stage.state not in transitions.ENDED)

    def push(self, unit: units.Unit) -> None:
        """Queue what can start."""
        self.steps += 1
        if not unit.queued:
            unit.queued = True
            element = -1 if unit.element is None else unit.element
            place = self.plan.priority[unit.stage]
            if element >= 0:  # whole stages go first: a wide fan must not hold them up
                place += len(self.stages)
            heapq.heappush(self.ready, (place, element, unit.stage))

    def offer(self, index: int) -> None:
        """Queue a stage if nothing holds it back."""
        stage = self.stages[index]
        self.steps += 1
        wanted = not self.plan.users[index] or self.activated[index]
        if stage.state == "pending" and stage.waiting_on <= 0 and wanted:
            self.push(stage)

    def at(self, stage: int, element: int) -> units.Unit | None:
        """Find what a queue's entry names; None if it is gone."""
        found = self.stages[stage]
        if element < 0:
            return found
        return found.units[element] if found.units and element < len(found.units) else None

    def move(self, unit: units.Unit, event: events.Event) -> str:
        """Take the arrow of the stage table; give the state before."""
        before = unit.state
        after = transitions.STAGE[before].get(type(event))
        if after is None:
            raise self.illegal(self.spec(unit).id, before, event)
        unit.state = after
        return before

    def move_run(self, event: events.Event) -> None:
        """Take the arrow of the run table."""
        after = transitions.RUN[self.run].get(type(event))
        if after is None:
            raise self.illegal(None, self.run, event)
        self.run = after

    def illegal(self, stage: str | None, state: str, event: events.Event) -> Exception:
        """Make the error that carries the story."""
        name = type(event).__name__
        run_id = self.accepted.run_id
        return errors.IllegalTransition(run_id, stage, state, name, list(self.story))
