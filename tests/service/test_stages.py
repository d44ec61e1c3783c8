"""Stages that break the rules, what an attempt costs, and the cache beside several runs."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from protocol import events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS
PLACES = ("ray", "agent")


async def crooked(ask, how, place):
    return await helpers.done(
        ask, stage("a", "service.crooked", {"how": how}, placement=place), name="crooked"
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raises BaseException", "Unruly: out of order"),
        ("raises KeyboardInterrupt", "KeyboardInterrupt"),
        ("raises CancelledError", "CancelledError"),
        ("returns text", "returned a str, not a report"),
        ("returns nothing", "returned nothing, not a report"),
        ("returns another kind", "returned a metrics, not a report"),
        ("returns surrogates", "UnicodeEncodeError"),
    ],
)
async def test_a_stage_that_breaks_the_rules_fails_alone(ask, how, told, place):
    status, happened = await crooked(ask, how, place)
    assert status.state == "failed"
    assert status.problem.code == "code_fault"
    assert told in status.problem.message
    assert helpers.of(happened, events.StageRetrying) == []
    assert (await helpers.done(ask, stage("a", "sample.noop", placement=place)))[0].state == (
        "succeeded"
    )


@pytest.mark.parametrize("place", PLACES)
async def test_what_a_stage_says_need_not_be_text_that_can_be_written(ask, place):
    status, told = await crooked(ask, "prints what is no text", place)
    assert status.problem.code == "data_fault"
    assert status.problem.message == "bad text ?"
    (failed,) = helpers.of(told, events.StageFailed)
    assert place == "agent" or "??" in failed.log


@pytest.mark.parametrize("place", PLACES)
async def test_what_a_stage_notes_need_not_be_text_that_can_be_written(ask, place):
    status, _ = await crooked(ask, "tells surrogates", place)
    assert status.state == "failed"
    assert status.problem.code in {"code_fault", "data_fault"}


@pytest.mark.parametrize("place", PLACES)
async def test_a_note_too_large_for_the_journal_is_dropped(ask, place):
    status, told = await crooked(ask, "notes very much", place)
    assert status.state == "succeeded"
    assert helpers.of(told, events.StageRegistered) == []


@pytest.mark.parametrize("place", PLACES)
async def test_a_success_carries_what_it_used_and_what_that_cost(ask, place):
    _, told = await helpers.done(ask, stage("a", "service.burn", placement=place))
    (succeeded,) = helpers.of(told, events.StageSucceeded)
    assert succeeded.usage.cpu_s >= 0.1
    assert succeeded.usage.cost == pytest.approx(succeeded.usage.cpu_s * helpers.PRICE / 3600)
    assert place == "agent" or succeeded.usage.peak_memory_bytes > 1 << 20
    assert succeeded.duration_s >= 0.1


async def test_what_comes_from_the_cache_costs_nothing(ask, trace):
    cached = stage("a", "sample.echo", {"value": 1, "trace": str(trace)})
    first, again = [(await helpers.done(ask, cached))[1] for _ in range(2)]
    (made,), (taken,) = (helpers.of(told, events.StageSucceeded) for told in (first, again))
    assert (made.cached, taken.cached) == (False, True)
    assert made.cache_key == taken.cache_key
    assert taken.usage is None
    assert len(helpers.lines(trace)) == 1


async def test_equal_work_of_several_runs_is_done_once(ask, trace):
    equal = stage("a", "sample.slow_add", {"trace": str(trace), "seconds": 0.3})
    found = await asyncio.gather(*(helpers.done(ask, equal) for _ in range(4)))
    assert {status.state for status, _ in found} == {"succeeded"}
    assert sorted(status.stages[0].cached for status, _ in found) == [False, True, True, True]
    assert helpers.lines(trace) == ["ran"]


async def test_progress_is_told_while_a_stage_works(ask, bus):
    heard = await bus.subscribe("codeguardian.ml.progress.>")
    await bus.flush()
    run_id = await helpers.submit(ask, stage("a", "sample.sleep", {"seconds": 0.9}))
    message = await heard.next_msg(timeout=helpers.WAIT_S)
    told = msgspec.json.decode(message.data, type=events.Progress)
    assert (told.run_id, told.stage, told.message) == (run_id, "a", "asleep")
    assert 0 <= told.fraction <= 1
    await helpers.ended(ask, run_id)


async def test_a_stage_that_needs_more_than_there_is_fails_at_once(ask):
    status, _ = await helpers.done(
        ask, stage("a", "sample.noop", resources={"cpu": 64}, retry={"max_attempts": 1})
    )
    assert status.problem.code == "unavailable"
    assert "64 CPUs" in status.problem.message
