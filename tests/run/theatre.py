"""Owns a small world around one machine: live work, timers, a clock, the journal so far."""

from __future__ import annotations

import datetime as dt

from agent.run import effects, machine, plan, state, stimuli, view
from protocol import artifacts, events, pipelines, problems

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
P = plan.Port
TABLE = P("table", "table")
KINDS = {
    "make": plan.Shape(outputs=(TABLE,)),
    "list": plan.Shape(outputs=(P("list", "list"),)),
    "work": plan.Shape(inputs=(P("table", "table"),), outputs=(TABLE,)),
    "maybe": plan.Shape(inputs=(P("table", "table", optional=True),), outputs=(TABLE,)),
    "join": plan.Shape(inputs=(P("tables", "table", many=True),), outputs=(TABLE,)),
    "both": plan.Shape(outputs=(P("train", "table"), P("test", "table"))),
    "gate": plan.Shape(outputs=(TABLE, P("quarantined", "table"))),
    "model": plan.Shape(inputs=(P("table", "table"),), outputs=(P("model", "model"),)),
    "train": plan.Shape(outputs=(TABLE,), delegated=True),
    "ship": plan.Shape(inputs=(P("table", "table"),), effects=True),
}
ROWS = 3


def planned(*stages: pipelines.Stage, max_fan_out: int = 20_000) -> plan.Plan:
    pipeline = pipelines.Pipeline("p", list(stages))
    return plan.plan(pipeline, KINDS, max_stages=20_000, max_fan_out=max_fan_out)


def ref(kind: str, rows: int | None = None) -> artifacts.ArtifactRef:
    return artifacts.ArtifactRef(kind, f"sha256:{'0' * 64}", "file:x", "x", 1, rows=rows)


class Theatre:
    def __init__(
        self,
        *stages: pipelines.Stage,
        options: pipelines.Options | None = None,
        max_fan_out: int = 20_000,
        rows: int = ROWS,
    ) -> None:
        self.plan = planned(*stages, max_fan_out=max_fan_out)
        self.now = START
        self.rows = rows
        self.log: list[events.AnyEvent] = [
            events.RunAccepted(
                at=START,
                run_id="r",
                request_id="q",
                requester="x",
                pipeline=self.plan.pipeline,
                options=options or pipelines.Options(),
            )
        ]
        self.machine = machine.Machine(
            self.plan, state.RunState.from_accepted(self.log[0], self.plan)
        )
        self.live: dict[effects.WorkKey, effects.Work] = {}
        self.launched: list[effects.Launch] = []
        self.timers: dict[str, dt.datetime] = {}
        self.effects: list[effects.Effect] = []
        self.epoch = 0

    @property
    def run(self) -> str:
        return view.run_state(self.machine.state)

    def stage(self, name: str):
        return next(s for s in view.status(self.machine.state).stages if s.id == name)

    def send(self, stimulus: stimuli.Stimulus) -> list[str]:
        """Feed a stimulus; give the transcript of what came of it."""
        happened, wanted = self.machine.handle(stimulus, self.now, "test")
        assert all(event.cause == "test" for event in happened)
        self.log += happened
        for effect in wanted:
            self._perform(effect)
        self.effects = wanted
        told = [line(event) for event in happened] + [line(effect) for effect in wanted]
        for effect in wanted:
            if isinstance(effect, effects.Launch):
                told += self._begin(effect.work.key)
        return told

    def _begin(self, key: effects.WorkKey) -> list[str]:
        """Give an attempt its place; only its time limit follows from that."""
        happened, wanted = self.machine.handle(stimuli.WorkBegan(key), self.now, "test")
        assert not happened
        for effect in wanted:
            self._perform(effect)
        return [line(effect) for effect in wanted]

    def _perform(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Launch):
            assert effect.work.key not in self.live
            self.live[effect.work.key] = effect.work
            self.launched.append(effect)
        elif isinstance(effect, effects.SetTimer):
            self.timers[effect.name] = effect.at
        elif isinstance(effect, effects.ClearTimer):
            self.timers.pop(effect.name, None)

    def take(self) -> list[str]:
        self.epoch += 1
        return self.send(stimuli.Taken("a", self.epoch))

    def crash(self) -> list[str]:
        """Lose the agent: only the journal is left."""
        self.live.clear()
        self.timers.clear()
        self.machine = machine.Machine.from_events(self.plan, self.log)
        return self.take()

    def key(self, stage: str, element: int | None = None) -> effects.WorkKey:
        return next(k for k in self.live if (k.stage, k.element) == (stage, element))

    def outputs(self, key: effects.WorkKey) -> dict[str, artifacts.ArtifactRef]:
        ports = self.plan.kinds[self.plan.ids[key.stage]].outputs
        return {p.name: ref(p.kind, self.rows if p.kind == "list" else None) for p in ports}

    def ok(self, stage: str, element: int | None = None, **metrics: float) -> list[str]:
        key = self.key(stage, element)
        del self.live[key]
        return self.send(stimuli.WorkSucceeded(key, self.outputs(key), metrics=metrics))

    def fail(
        self, stage: str, code: str = "code_fault", element: int | None = None, *, retryable=False
    ) -> list[str]:
        key = self.key(stage, element)
        del self.live[key]
        problem = problems.Problem(code, f"{code}!", retryable=retryable)
        return self.send(stimuli.WorkFailed(key, problem))

    def halt(self, stage: str, how: str = "asked", element: int | None = None) -> list[str]:
        key = self.key(stage, element)
        del self.live[key]
        return self.send(stimuli.WorkStopped(key, how, "w1"))

    def tick(self) -> list[str]:
        """Let the next timer come due."""
        name = min(self.timers, key=lambda n: (self.timers[n], n))
        self.now = max(self.now, self.timers.pop(name))
        return self.send(stimuli.TimerFired(name))


def line(thing: events.AnyEvent | effects.Effect) -> str:
    """Write an event as `stage.started a#1`, an effect as `> Launch a#1`."""
    if isinstance(thing, events.Event):
        tag = str(thing.__struct_config__.tag)
        stage = getattr(thing, "stage", None)
        if stage is None:
            return tag
        element = getattr(thing, "element", None)
        place = stage if element is None else f"{stage}[{element}]"
        attempt = getattr(thing, "attempt", 0)
        return f"{tag} {place}" + (f"#{attempt}" if attempt else "")
    work = getattr(thing, "work", None)
    key = work.key if work is not None else getattr(thing, "key", None)
    name = type(thing).__name__
    if isinstance(thing, effects.Stop):
        name = "Kill" if thing.force else "Stop"
    if key is None:
        return f"> {name} {getattr(thing, 'name', getattr(thing, 'state', ''))}".rstrip()
    place = key.stage if key.element is None else f"{key.stage}[{key.element}]"
    return f"> {name} {place}#{key.attempt}"
