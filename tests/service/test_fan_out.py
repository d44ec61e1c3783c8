"""Stages that run once per element: their quorum, their quarantine, what gathers them."""

from __future__ import annotations

import pytest

from protocol import client, events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS


def fan(trace, items=(0, 1, 2, 3), *, each=None, **params):
    return [
        stage("l", "sample.items", {"items": list(items)}),
        stage(
            "f",
            "service.each",
            {"trace": str(trace), **params},
            for_each={"items": "l", **(each or {})},
        ),
        stage("g", "service.gather", inputs={"numbers": "f"}),
    ]


async def test_a_stage_runs_once_per_element_and_the_results_are_gathered(ask, trace):
    status, told = await helpers.done(ask, *fan(trace, range(5)))
    assert sorted(helpers.lines(trace)) == ["0", "1", "2", "3", "4"]
    found = helpers.by_id(status)
    assert found["g"].metrics == {"count": 5.0, "sum": 10.0}
    assert (found["f"].elements, found["f"].elements_done) == (5, 5)
    assert len(found["f"].outputs["metrics"]) == 5
    assert found["f"].metrics == {"item": 2.0}
    ended = helpers.of(told, events.StageSucceeded, "f")
    assert sorted(one.element for one in ended[:-1]) == [0, 1, 2, 3, 4]
    assert ended[-1].element is None


async def test_an_empty_list_succeeds_with_nothing(ask, trace):
    status, _ = await helpers.done(ask, *fan(trace, ()))
    assert status.state == "succeeded"
    assert helpers.by_id(status)["g"].metrics == {"count": 0.0, "sum": 0.0}
    assert helpers.lines(trace) == []


async def test_failed_elements_are_quarantined_where_enough_succeed(ask, trace):
    status, told = await helpers.done(ask, *fan(trace, each={"min_success": 0.5}, bad=[1, 3]))
    assert status.state == "succeeded"
    found = helpers.by_id(status)
    assert [(one.element, one.code) for one in found["f"].quarantined] == [
        (1, "data_fault"),
        (3, "data_fault"),
    ]
    assert found["g"].metrics == {"count": 2.0, "sum": 2.0}
    assert helpers.of(told, events.StageSucceeded, "f")[-1].quarantined == found["f"].quarantined


async def test_a_lost_quorum_fails_the_stage_with_what_its_elements_said(ask, trace):
    status, _ = await helpers.done(ask, *fan(trace, each={"min_success": 0.75}, bad=[1, 3]))
    assert status.state == "failed"
    problem = helpers.by_id(status)["f"].problem
    assert problem.code == "data_fault"
    assert "2 of 4 elements failed and 3 must succeed" in problem.message
    assert {one.message for one in problem.problems} == {"element 1 is bad", "element 3 is bad"}


async def test_a_backfill_runs_the_quarantined_elements_and_only_those(ask, trace, tmp_path):
    mended = tmp_path / "mended"
    stages = fan(trace, each={"min_success": 0.5}, bad=[1, 3], mended=str(mended))
    status, _ = await helpers.done(ask, *stages)
    with pytest.raises(client.Refused) as refused:
        await ask.resume(status.run_id)
    assert refused.value.problem.code == "conflict"
    trace.unlink()
    mended.touch()
    await ask.resume(status.run_id, backfill=True, by="me")
    told = await helpers.story(ask, status.run_id)
    after = await ask.status(status.run_id)
    assert after.state == "succeeded"
    assert sorted(helpers.lines(trace)) == ["1", "3"]
    found = helpers.by_id(after)
    assert found["f"].quarantined == []
    assert found["g"].metrics == {"count": 4.0, "sum": 6.0}
    (resumed,) = helpers.of(told, events.RunResumed)
    assert (resumed.by, resumed.again) == ("me", ["f", "g"])


async def test_no_more_elements_run_at_a_time_than_the_fan_allows(ask, trace):
    stages = fan(trace, each={"max_parallel": 1}, seconds=0.05)
    _, told = await helpers.done(ask, *stages)
    at_work = 0
    for event in told:
        if event.scope == "f" and event.element is not None:
            at_work += 1 if isinstance(event, events.StageStarted) else -1
            assert at_work <= 1


async def test_a_fan_over_the_results_of_a_fan_goes_on_element_by_element(ask, trace):
    first, second, gather = fan(trace, each={"min_success": 0.5}, bad=[1])
    double = stage("d", "service.double", for_each={"items": "f", "as": "number"})
    gather["inputs"] = {"numbers": "d"}
    status, _ = await helpers.done(ask, first, second, double, gather)
    assert helpers.by_id(status)["d"].elements == 3
    assert helpers.by_id(status)["g"].metrics == {"count": 3.0, "sum": 10.0}


async def test_an_absurdly_wide_fan_is_refused_before_it_starts(ask, trace):
    status, told = await helpers.done(ask, *fan(trace, range(10_001)))
    assert status.problem.code == "fan_out_too_large"
    assert helpers.lines(trace) == []
    assert helpers.of(told, events.StageStarted, "f") == []
