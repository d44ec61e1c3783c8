"""Owns what a forecast of a run's use of the cache promises: it says what the run then does."""

from __future__ import annotations

import collections
import datetime as dt
import importlib
import time

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from agent import catalog
from agent.artifacts import cache, store
from agent.conductor import forecast
from agent.execution import base, cached, identity, in_agent
from agent.run import effects, machine, state, stimuli
from protocol import events, pipelines
from stages import kit
from tests.artifacts import samples

MODULE = "tests.conductor.forecast_stages"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class World:
    """A cache, and an agent that runs pipelines one stage at a time."""

    def __init__(self, folder):
        importlib.import_module(MODULE)
        self.store = store.Store((folder / "store").as_uri(), folder / "copies").make()
        self.stages = catalog.Catalog(modules=(MODULE,))
        self.steps = cache.Cache(self.store)
        inner = in_agent.InAgentExecutor(self.store, kit.Services())
        self.executor = cached.CachedExecutor(inner, self.steps, self.store, kit.Services())
        self.launched = []

    async def close(self):
        await self.executor.close()

    async def told(self, *stages, **how):
        """Forecast; give (reuse, reason) by stage."""
        found = await forecast.forecast(
            pipelines.Pipeline("p", list(stages)),
            pipelines.Options(**how),
            self.stages,
            self.steps,
            identity.Identities(self.store, kit.Services()),
        )
        assert [one.stage for one in found] == [stage.id for stage in stages]
        return {one.stage: (one.reuse, one.reason) for one in found}

    async def reuse(self, *stages, **how):
        return {name: reuse for name, (reuse, _) in (await self.told(*stages, **how)).items()}

    async def run(self, *stages, **how):
        """Run to the end; say of each stage whether it was taken from the cache."""
        pipeline = pipelines.Pipeline("p", list(stages))
        accepted = events.RunAccepted(
            at=NOW,
            run_id="r",
            request_id="q",
            requester="x",
            pipeline=pipeline,
            options=pipelines.Options(**how),
        )
        plan = self.stages.plan(pipeline)
        run = machine.Machine(plan, state.RunState.from_accepted(accepted, plan))
        stimulus_queue = collections.deque([stimuli.Taken("a", 1)])
        while stimulus_queue:
            _, wanted = run.handle(stimulus_queue.popleft(), NOW, "test")
            for effect in wanted:
                if isinstance(effect, effects.Launch):
                    stimulus_queue.append(await self.attempt(effect.work))
            if not stimulus_queue and run.state.waiting:
                run.held = True  # as an agent that takes the parked run again
                for index in list(run.state.waiting):
                    stimulus_queue.append(stimuli.Answered(plan.stages[index].id, True, "me"))
        return {plan.stages[stage.stage].id: stage for stage in run.state.stages}

    async def attempt(self, work):
        self.launched.append(work)
        outcome = await self.executor.run(work, Quiet())
        if isinstance(outcome, base.Failed):
            return stimuli.WorkFailed(work.key, outcome.problem)
        return stimuli.WorkSucceeded(
            work.key, outcome.outputs, outcome.metrics, cached=outcome.cached
        )


class Quiet:
    def began(self, *_):
        """Hear nothing."""

    def progress(self, *_):
        """Hear nothing."""

    def note(self, *_):
        """Hear nothing."""


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path)
    yield made
    await made.close()


def stage(name, use="told.add", inputs=None, **more):
    """Make a stage; what is no field of one is a parameter."""
    fields = {field.name for field in msgspec.structs.fields(pipelines.Stage)}
    params = {key: value for key, value in more.items() if key not in fields}
    known = {key: value for key, value in more.items() if key in fields}
    return pipelines.Stage(name, use, params=params, inputs=inputs or {}, **known)


def after(name, upstream, use="told.add", **more):
    return stage(name, use, {"base": upstream}, **more)


def fan(name, upstream, **more):
    return stage(name, for_each=pipelines.ForEach(upstream, "number", **more))


def agree(told, ran):
    """Check a forecast against the run that followed it."""
    for name, reuse in told.items():
        if reuse != "unknown":
            assert (name, ran[name].cached) == (name, reuse == "hit")


CHAIN = [stage("a", number=1), after("b", "a", number=2), after("c", "b", number=3)]


async def test_where_nothing_was_done_before_the_first_stages_miss_and_the_rest_is_unknown(world):
    told = await world.told(*CHAIN, stage("d", number=9))
    assert told["a"] == ("miss", "nothing like it has been done before")
    assert told["b"][0] == "unknown"
    assert "stage 'a'" in told["b"][1]
    assert "stage 'b'" in told["c"][1]
    assert told["d"][0] == "miss"


async def test_what_a_run_has_made_is_a_hit_all_the_way_down(world):
    await world.run(*CHAIN)
    told = await world.told(*CHAIN)
    assert set(told.values()) == {("hit", "")}
    ran = await world.run(*CHAIN)
    assert all(one.cached for one in ran.values())


async def test_a_forecast_runs_nothing_and_stores_nothing(world, tmp_path):
    trace = tmp_path / "trace"
    pipeline = [stage("a", trace=str(trace)), after("b", "a", number=2)]
    await world.told(*pipeline)
    assert not trace.exists()
    assert list(world.store.digests()) == []
    await world.run(*pipeline)
    before = (sorted(world.store.digests()), world.store.records("cache"))
    await world.told(*pipeline, seed=3)
    assert (sorted(world.store.digests()), world.store.records("cache")) == before
    assert trace.read_text() == "ran\n"


async def test_a_changed_parameter_is_named_and_only_what_follows_is_unknown(world):
    pipeline = [*CHAIN, after("aside", "a", number=5)]
    await world.run(*pipeline)
    changed = [pipeline[0], after("b", "a", number=7), *pipeline[2:]]
    told = await world.told(*changed)
    assert told["b"] == ("miss", "params.number differed in the most similar earlier work")
    assert {name: reuse for name, (reuse, _) in told.items()} == {
        "a": "hit",
        "b": "miss",
        "c": "unknown",
        "aside": "hit",
    }
    agree({name: reuse for name, (reuse, _) in told.items()}, await world.run(*changed))


async def test_the_seed_of_the_run_counts_unless_the_stage_has_its_own(world):
    pipeline = [stage("a", number=1), stage("b", number=2, seed=5)]
    await world.run(*pipeline, seed=1)
    told = await world.told(*pipeline, seed=2)
    assert told["a"] == ("miss", "seed differed in the most similar earlier work")
    assert told["b"] == ("hit", "")
    ran = await world.run(*pipeline, seed=2)
    assert (ran["a"].cached, ran["b"].cached) == (False, True)


async def test_an_input_that_differs_is_named(world):
    await world.run(*CHAIN)
    other = [stage("a", number=2), after("b", "a", number=2)]
    await world.run(other[0])
    told = await world.told(*other)
    assert told["a"] == ("hit", "")
    assert told["b"] == ("miss", "inputs.base differed in the most similar earlier work")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [("off", "the cache is off for it"), ("refresh", "it is to be made anew")],
)
async def test_the_policy_of_the_run_or_the_stage_is_told(world, policy, reason):
    await world.run(*CHAIN)
    told = await world.told(*CHAIN, cache=policy)
    assert told["a"] == ("miss", reason)
    assert told["b"][0] == "unknown"
    agree(await world.reuse(*CHAIN, cache=policy), await world.run(*CHAIN, cache=policy))
    own = [CHAIN[0], msgspec.structs.replace(CHAIN[1], cache=policy)]
    told = await world.told(*own)
    assert (told["a"], told["b"]) == (("hit", ""), ("miss", reason))
    use = [msgspec.structs.replace(one, cache="use") for one in CHAIN]
    assert set((await world.reuse(*use, cache="off")).values()) == {"hit"}


async def test_stages_that_always_run_say_why(world):
    pipeline = [
        stage("clock", "told.clock"),
        stage("a", number=1),
        after("ship", "a", "told.ship"),
        after("late", "clock"),
    ]
    await world.run(*pipeline)
    told = await world.told(*pipeline)
    assert told["clock"] == ("miss", "this kind of stage is never cached")
    assert told["ship"] == ("miss", "it changes something outside, so it runs each time")
    assert told["late"][0] == "unknown"
    agree(await world.reuse(*pipeline), await world.run(*pipeline))


async def test_a_delegated_training_is_found_by_the_same_key(world):
    pipeline = [stage("a", number=1), after("train", "a", "told.train")]
    await world.run(*pipeline)
    assert [work.placement for work in world.launched] == ["ray", "training"]
    assert await world.reuse(*pipeline) == {"a": "hit", "train": "hit"}
    assert (await world.told(*pipeline, seed=1))["train"][0] == "unknown"


async def test_a_source_that_changed_is_named(world, tmp_path):
    source = tmp_path / "source"
    source.write_text("1")
    pipeline = [stage("a", "told.read", file=str(source)), after("b", "a", number=1)]
    await world.run(*pipeline)
    assert await world.reuse(*pipeline) == {"a": "hit", "b": "hit"}
    source.write_text("2")
    told = await world.told(*pipeline)
    assert told["a"] == ("miss", "source differed in the most similar earlier work")
    source.unlink()
    told = await world.told(*pipeline)
    assert told["a"][0] == "miss"
    assert "No such file" in told["a"][1]


async def test_a_source_that_cannot_be_told_apart_is_read_again(world, tmp_path):
    source = tmp_path / "source"
    source.write_text("1")
    pipeline = [stage("a", "told.read", file=str(source), known=False)]
    await world.run(*pipeline)
    told = await world.told(*pipeline)
    assert told["a"][0] == "miss"
    assert "source" in told["a"][1]
    assert not (await world.run(*pipeline))["a"].cached


@pytest.mark.parametrize("how", ["corrupted", "truncated", "missing"])
async def test_a_damaged_output_is_no_hit(world, how):
    ran = await world.run(*CHAIN)
    samples.spoil(ran["b"].outputs["metrics"], how)
    told = await world.told(*CHAIN)
    assert told["a"] == ("hit", "")
    assert told["b"][0] == "miss"
    assert "made before" in told["b"][1]
    ran = await world.run(*CHAIN)
    assert [ran[name].cached for name in "abc"] == [True, False, True]


async def test_each_element_of_a_fan_out_is_looked_up(world):
    def pipeline(*numbers):
        return [
            stage("list", "told.list", numbers=list(numbers)),
            fan("each", "list"),
            stage("total", "told.total", {"parts": "each"}),
        ]

    first = await world.told(*pipeline(1.0, 2.0))
    assert [reuse for reuse, _ in first.values()] == ["miss", "unknown", "unknown"]
    await world.run(*pipeline(1.0, 2.0))
    assert set((await world.reuse(*pipeline(1.0, 2.0))).values()) == {"hit"}
    wider = pipeline(2.0, 1.0, 3.0)
    await world.run(wider[0])
    told = await world.told(*wider)
    reason = "2 of 3 elements are there; params.number differed in the most similar earlier work"
    assert told["each"] == ("miss", reason)
    assert told["total"][0] == "unknown"
    ran = await world.run(*wider)
    assert [unit.cached for unit in ran["each"].units] == [True, True, False]


async def test_a_fan_out_over_a_fan_out_is_looked_up_by_its_inputs(world):
    pipeline = [
        stage("list", "told.list", numbers=[1.0, 2.0]),
        fan("each", "list"),
        stage("more", number=1, for_each=pipelines.ForEach("each", "base")),
    ]
    await world.run(*pipeline)
    assert set((await world.reuse(*pipeline)).values()) == {"hit"}


async def test_a_fan_out_over_nothing_takes_nothing(world):
    pipeline = [stage("list", "told.list", numbers=[]), fan("each", "list")]
    await world.run(*pipeline)
    told = await world.told(*pipeline)
    assert told["each"] == ("unknown", "there are no elements, so nothing is done")
    assert not (await world.run(*pipeline))["each"].cached


async def test_a_fan_out_that_is_too_wide_is_told(world):
    world.stages = catalog.Catalog(max_fan_out=2)
    pipeline = [stage("list", "told.list", numbers=[1.0, 2.0, 3.0]), fan("each", "list")]
    await world.run(pipeline[0])
    told = await world.told(*pipeline)
    assert told["each"][0] == "unknown"
    assert "it would fail: 3 elements are more than" in told["each"][1]


async def test_a_condition_is_decided_by_the_metrics_in_the_cache(world):
    def pipeline(least):
        when = pipelines.Condition("a.sum", ">=", least)
        return [
            stage("a", number=1),
            stage("b", number=2, when=when),
            after("c", "b", "told.train"),
        ]

    told = await world.told(*pipeline(0))
    assert told["b"][0] == "unknown"  # the metric is not known yet
    await world.run(*pipeline(0))
    assert set((await world.reuse(*pipeline(0))).values()) == {"hit"}
    told = await world.told(*pipeline(5))
    assert told["b"] == ("unknown", "it would be skipped: a.sum is 1, not >= 5")
    assert "it would be skipped" in told["c"][1]
    ran = await world.run(*pipeline(5))
    assert (ran["b"].state, ran["c"].state) == ("skipped", "skipped")


async def test_a_gate_counts_as_approved(world):
    gated = msgspec.structs.replace(CHAIN[1], approval=pipelines.Approval("go on?"))
    pipeline = [CHAIN[0], gated, CHAIN[2]]
    ran = await world.run(*pipeline)
    assert ran["c"].state == "succeeded"
    told = await world.told(*pipeline)
    assert told == {"a": ("hit", ""), "b": ("hit", "once it is approved"), "c": ("hit", "")}


async def test_a_fallback_is_only_needed_where_a_stage_fails(world):
    def pipeline(use):
        failing = stage("a", use, on_failure=pipelines.Fallback("b"))
        return [failing, stage("b", number=2), after("c", "a", number=3)]

    works, fails = pipeline("told.add"), pipeline("told.fail")
    assert (await world.told(*works))["b"] == ("unknown", "it runs only as a fallback")
    await world.run(*works)
    told = await world.told(*works)
    assert (told["a"][0], told["c"][0]) == ("hit", "hit")
    assert told["b"][0] == "unknown"
    assert "not needed as a fallback" in told["b"][1]
    await world.run(*fails)
    assert await world.reuse(*fails) == {"a": "miss", "b": "unknown", "c": "unknown"}


async def test_equal_work_in_one_pipeline_is_told_as_such(world):
    pipeline = [stage("a", number=1), stage("b", number=1)]
    told = await world.told(*pipeline)
    assert told["a"][0] == "miss"
    assert told["b"] == ("unknown", "stage 'a' does the same work, and does it first")
    ran = await world.run(*pipeline)
    assert (ran["a"].cached, ran["b"].cached) == (False, True)
    assert set((await world.reuse(*pipeline)).values()) == {"hit"}


async def test_limits_on_what_is_done_at_once_hide_nothing(world):
    pipeline = [
        stage("a", number=1),
        stage("b", number=2),
        stage("list", "told.list", numbers=[1.0, 2.0, 3.0]),
        fan("each", "list", max_parallel=1),
    ]
    await world.run(*pipeline[1:])
    told = await world.reuse(*pipeline, max_parallel=1, deadline_s=1e-6)
    assert told == {"a": "miss", "b": "hit", "list": "hit", "each": "hit"}
    world.steps.drop(world.store.records("cache/told.add")[-1][0])
    reuse, reason = (await world.told(*pipeline, max_parallel=1))["each"]
    assert (reuse, reason.partition(";")[0]) in {
        ("miss", "2 of 3 elements are there"),
        ("hit", ""),
    }


async def test_a_cache_that_cannot_be_read_leaves_the_pipeline_valid(world, tmp_path):
    await world.run(*CHAIN)
    records = tmp_path / "store" / "cache" / "told.add"
    for path in list(records.iterdir()):
        path.unlink()
        path.mkdir()
    told = await world.told(*CHAIN)
    assert told["a"] == ("unknown", "the cache cannot be read")


async def test_what_is_not_looked_up_in_time_is_unknown(world):
    await world.run(*CHAIN)
    started = time.monotonic()
    found = await forecast.forecast(
        pipelines.Pipeline("p", CHAIN),
        pipelines.Options(),
        world.stages,
        world.steps,
        identity.Identities(world.store, kit.Services()),
        patience_s=0.0,
    )
    assert time.monotonic() - started < 5
    assert [one.reuse for one in found] == ["unknown"] * 3
    assert found[0].reason == "there was no time to look it up"


@st.composite
def graphs(draw):
    """Draw a pipeline of stages that add, each to nothing or to an earlier one."""
    count = draw(st.integers(1, 7))
    made = []
    for index in range(count):
        upstream = draw(st.none() | st.integers(0, index - 1)) if index else None
        policy = draw(st.sampled_from([None, None, None, "use", "refresh", "off"]))
        inputs = {} if upstream is None else {"base": f"s{upstream}"}
        number = draw(st.integers(0, 2))
        made.append(stage(f"s{index}", inputs=inputs, number=number, cache=policy))
    return made


@hypothesis.settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(first=graphs(), second=graphs(), seed=st.integers(0, 1))
async def test_a_forecast_says_what_the_run_then_does(tmp_path_factory, first, second, seed):
    world = World(tmp_path_factory.mktemp("world"))
    try:
        await world.run(*first)
        told = await world.reuse(*second, seed=seed)
        agree(told, await world.run(*second, seed=seed))
    finally:
        await world.close()
