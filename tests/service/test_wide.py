"""Runs so wide that what is told of them would not fit a message: it does, and nothing hangs."""

from __future__ import annotations

from agent import service
from protocol import events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS


def fan(item, width, use, params, into):
    return [
        stage("l", "sample.items", {"items": [item] * width}),
        stage("f", use, params, for_each={"items": "l", "as": into}),
    ]


async def test_outputs_that_the_journal_cannot_describe_fail_their_stage(ask):
    status, told = await helpers.done(ask, stage("a", "service.wide", {"columns": 15_000}))
    assert status.problem.code == "payload_too_large"
    assert status.problem.hint
    assert helpers.of(told, events.StageRetrying) == []


async def test_a_fan_of_wide_tables_is_told_without_repeating_them(ask):
    status, told = await helpers.done(ask, *fan(500, 30, "service.wide", {}, "columns"))
    assert status.state == "succeeded"
    *elements, whole = helpers.of(told, events.StageSucceeded, "f")
    assert len(elements) == 30
    assert all(len(one.outputs["table"].schema) == 500 for one in elements)
    assert whole.outputs == {}
    shown = helpers.by_id(status)["f"].outputs["table"]
    assert len(shown) == 30
    assert {ref.schema for ref in shown} == {None}


async def test_a_very_wide_fan_is_cancelled_with_a_receipt_that_fits(ask):
    stages = fan(False, 10_000, "sample.sleep", {"seconds": 30}, "deaf")
    run_id = await helpers.submit(ask, *stages)
    await helpers.wait_event(ask, run_id, events.StageStarted, "f")
    await ask.cancel(run_id)
    receipt = (await helpers.story(ask, run_id))[-1]
    assert isinstance(receipt, events.RunCancelled)
    assert {one.how for one in receipt.stopped} <= {"asked", "not_started"}
    assert 0 < len(receipt.stopped) <= service.LEAST_WINDOW, "the others were never begun"
