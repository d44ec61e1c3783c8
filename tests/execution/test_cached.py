"""Owns what the cache in front of an executor promises."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from agent.artifacts import cache, store
from agent.execution import base, cached, in_agent
from agent.run import effects
from stages import kit, values
from tests.execution import helpers

LARGE = "x" * 1100
"""Stored, and not carried in its reference."""


@pytest.fixture
def own(artifacts, tmp_path):  # noqa: ARG001 - registers the sample stages
    return store.Store((tmp_path / "store").as_uri(), tmp_path / "local").make()


@pytest.fixture
async def executor(own):
    inner = in_agent.InAgentExecutor(own, kit.Services())
    made = cached.CachedExecutor(inner, cache.Cache(own), own, kit.Services())
    yield made
    await made.close()


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "trace"


def runs(trace):
    return len(trace.read_text().splitlines()) if trace.exists() else 0


async def outcome_of(executor, use, **how):
    return await executor.run(helpers.work(use, **how), helpers.Watcher())


async def test_what_was_made_is_found_again(executor, trace):
    first = await outcome_of(executor, "sample.echo", value=1, trace=str(trace))
    again = await outcome_of(executor, "sample.echo", value=1, trace=str(trace))
    assert (first.cached, again.cached, runs(trace)) == (False, True, 1)
    assert again.outputs == first.outputs
    assert again.cache_key == first.cache_key is not None
    assert again.code_version == first.code_version != ""


async def test_other_parameters_are_other_work(executor, trace):
    await outcome_of(executor, "sample.echo", value=1, trace=str(trace))
    await outcome_of(executor, "sample.echo", value=2, trace=str(trace))
    assert runs(trace) == 2


@pytest.mark.parametrize(("policy", "expected"), [("refresh", 2), ("off", 2), ("use", 1)])
async def test_the_policy_decides_whether_to_look(executor, trace, policy, expected):
    await outcome_of(executor, "sample.echo", trace=str(trace))
    outcome = await outcome_of(executor, "sample.echo", trace=str(trace), cache=policy)
    assert runs(trace) == expected
    assert outcome.cached == (policy == "use")


async def test_off_leaves_nothing_behind(executor, trace):
    first = await outcome_of(executor, "sample.echo", trace=str(trace), cache="off")
    second = await outcome_of(executor, "sample.echo", trace=str(trace))
    assert (first.cache_key, second.cached, runs(trace)) == (None, False, 2)


async def test_elements_with_equal_content_are_equal_work(executor, own, trace):
    lists = [own.put(values.Items(items)) for items in (["a", "b"], ["b"])]
    places = [(lists[0], 0), (lists[0], 1), (lists[1], 0)]
    outcomes = [
        await outcome_of(
            executor,
            "sample.echo",
            item=effects.Item(source, index),
            into="value",
            trace=str(trace),
        )
        for source, index in places
    ]
    assert [one.cached for one in outcomes] == [False, False, True]


async def test_a_source_outside_counts_by_its_fingerprint(executor, tmp_path):
    file = tmp_path / "source"
    seen = []
    for text in ("one", "one", "two"):
        file.write_text(text)
        seen.append((await outcome_of(executor, "sample.outside", file=str(file))).cached)
    assert seen == [False, True, False]


async def test_a_source_without_fingerprint_is_read_each_time(executor, tmp_path):
    file = tmp_path / "source"
    file.write_text("same")
    outcomes = [
        await outcome_of(executor, "sample.outside", file=str(file), known=False) for _ in "ab"
    ]
    assert [one.cached for one in outcomes] == [False, False]


async def test_a_failure_is_never_remembered(executor, trace):
    how = {"trace": str(trace), "fail_once": True, "seconds": 0.0}
    assert isinstance(await outcome_of(executor, "sample.slow_add", **how), base.Failed)
    second = await outcome_of(executor, "sample.slow_add", **how)
    assert isinstance(second, base.Succeeded)
    assert not second.cached


async def test_a_lost_blob_is_made_again(executor, own, trace):
    first = await outcome_of(executor, "sample.echo", value=LARGE, trace=str(trace))
    own.delete(first.outputs["report"].digest)
    second = await outcome_of(executor, "sample.echo", value=LARGE, trace=str(trace))
    assert (second.cached, runs(trace)) == (False, 2)


async def test_equal_work_at_the_same_time_is_done_once(executor, trace):
    outcomes = await asyncio.gather(
        *(outcome_of(executor, "sample.slow_add", trace=str(trace)) for _ in range(5))
    )
    assert runs(trace) == 1
    assert sorted(one.cached for one in outcomes) == [False, True, True, True, True]
    assert len({one.outputs["metrics"].digest for one in outcomes}) == 1


async def test_a_follower_does_the_work_when_the_leader_fails(executor, trace):
    how = {"trace": str(trace), "fail_once": True}
    outcomes = await asyncio.gather(
        *(outcome_of(executor, "sample.slow_add", **how) for _ in range(3))
    )
    kinds = [isinstance(one, base.Succeeded) for one in outcomes]
    assert sorted(kinds) == [False, True, True]
    assert runs(trace) == 2


async def test_a_stopped_follower_leaves_the_leader_alone(executor, trace):
    how = {"trace": str(trace), "seconds": 1.0}
    leader = asyncio.create_task(outcome_of(executor, "sample.slow_add", **how))
    await helpers.wait_file(trace)
    follower = helpers.work("sample.slow_add", **how)
    following = asyncio.create_task(executor.run(follower, helpers.Watcher()))
    await asyncio.sleep(0)
    await executor.stop(follower.key, force=False)
    assert (await asyncio.wait_for(following, 5)).how == "not_started"
    assert isinstance(await leader, base.Succeeded)
    assert runs(trace) == 1


async def test_a_stop_before_the_work_begins_is_not_lost(executor, trace):
    piece = helpers.work("sample.echo", trace=str(trace))
    task = asyncio.create_task(executor.run(piece, helpers.Watcher()))
    await asyncio.sleep(0)
    await executor.stop(piece.key, force=False)
    assert (await task).how == "not_started"
    assert runs(trace) == 0


async def test_bad_parameters_are_reported_by_the_attempt(executor):
    outcome = await outcome_of(executor, "sample.add", number="many")
    assert outcome.problem.path == "$.with.number"


class StandsIn:
    """An executor whose work is always done by a fallback."""

    def __init__(self, inner):
        self.inner = inner

    async def run(self, work, watcher):
        watcher.note("fallback_used", {})
        return await self.inner.run(work, watcher)


async def test_what_a_fallback_gave_is_not_remembered(own, trace):
    inner = in_agent.InAgentExecutor(own, kit.Services())
    executor = cached.CachedExecutor(StandsIn(inner), cache.Cache(own), own, kit.Services())
    for _ in range(2):
        outcome = await outcome_of(executor, "sample.echo", trace=str(trace))
        assert not outcome.cached
    await inner.close()
    assert runs(trace) == 2


class OfOtherCode:
    """An executor whose workers were started from other code."""

    def __init__(self, inner):
        self.inner = inner

    async def run(self, work, watcher):
        made = await self.inner.run(work, watcher)
        return msgspec.structs.replace(made, code_version="other")


async def test_what_other_code_made_is_not_remembered(own, trace):
    inner = in_agent.InAgentExecutor(own, kit.Services())
    executor = cached.CachedExecutor(OfOtherCode(inner), cache.Cache(own), own, kit.Services())
    for _ in range(2):
        outcome = await outcome_of(executor, "sample.echo", trace=str(trace))
        assert (outcome.cached, outcome.cache_key, outcome.code_version) == (False, None, "other")
    await inner.close()
    assert runs(trace) == 2


async def test_work_is_done_even_if_the_cache_can_neither_be_read_nor_written(
    executor, trace, tmp_path
):
    folder = tmp_path / "store" / "cache"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where a folder should be")
    outcome = await outcome_of(executor, "sample.echo", trace=str(trace))
    assert isinstance(outcome, base.Succeeded)
    assert (outcome.cached, runs(trace)) == (False, 1)


async def test_a_damaged_blob_is_made_again_and_heals(executor, own, trace):
    first = await outcome_of(executor, "sample.echo", value=LARGE, trace=str(trace))
    own.path(first.outputs["report"]).write_bytes(b"{}")
    second = await outcome_of(executor, "sample.pass", inputs=first.outputs)
    assert second.problem.code == "artifact_corrupt"
    third = await outcome_of(executor, "sample.echo", value=LARGE, trace=str(trace))
    assert third.cached is False
    assert isinstance(
        await outcome_of(executor, "sample.pass", inputs=third.outputs), base.Succeeded
    )
