"""What decides whether a stage runs: conditions, failures that are allowed, stand-ins, gates."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from protocol import client, events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS


def gated(*, needs=(), **limits):
    return stage("g", "sample.noop", approval={"prompt": "sure?", **limits}, needs=list(needs))


async def test_a_stage_whose_condition_is_not_met_is_skipped_with_what_needs_it(ask):
    def when(op, value):
        return {"metric": "a.sum", "op": op, "value": value}

    status, _ = await helpers.done(
        ask,
        stage("a", "sample.add", {"number": 2}),
        stage("yes", "sample.noop", when=when(">=", 2)),
        stage("no", "sample.noop", when=[when(">=", 2), when("<", 1)]),
        stage("after", "sample.noop", needs=["no"]),
    )
    found = helpers.by_id(status)
    assert status.state == "succeeded"
    assert found["yes"].state == "succeeded"
    assert (found["no"].state, found["no"].reason) == ("skipped", "a.sum is 2, not < 1")
    assert (found["after"].state, found["after"].reason) == (
        "skipped",
        "it needs stage 'no', which was skipped",
    )


async def test_an_optional_stage_may_fail(ask):
    status, _ = await helpers.done(
        ask,
        stage("a", "sample.fail", {"how": "data"}, on_failure="skip"),
        stage("b", "sample.pass", inputs={"report": "a"}),
        stage("c", "sample.noop"),
    )
    states = {name: one.state for name, one in helpers.by_id(status).items()}
    assert states == {"a": "failed", "b": "skipped", "c": "succeeded"}
    assert status.state == "succeeded"


async def test_a_fallback_stands_in_for_what_failed_and_else_does_not_run(agent, ask, trace):
    for how, answer, state in (("data", "spare", "succeeded"), ("", "main", "skipped")):
        main = stage("a", "sample.echo", {"value": "main"}, on_failure={"fallback": "spare"})
        if how:
            main |= {"use": "sample.fail", "with": {"how": how}}
        status, told = await helpers.done(
            ask,
            main,
            stage("spare", "sample.echo", {"value": "spare", "trace": str(trace)}),
            stage("b", "sample.pass", inputs={"report": "a"}),
        )
        found = helpers.by_id(status)
        assert status.state == "succeeded"
        assert agent.store.get(found["b"].outputs["report"]).data["value"] == answer
        assert found["spare"].state == state
        assert len(helpers.of(told, events.FallbackUsed)) == bool(how)
    assert len(helpers.lines(trace)) == 1


async def test_a_gate_waits_for_its_approval(ask):
    run_id = await helpers.submit(ask, stage("a", "sample.noop"), gated(needs=["a"]))
    waiting = await helpers.wait_state(ask, run_id, "waiting")
    assert helpers.by_id(waiting)["g"].state == "waiting"
    asked = await helpers.wait_event(ask, run_id, events.ApprovalRequested)
    assert (asked.prompt, asked.expires_at) == ("sure?", None)
    await ask.approve(run_id, "g", by="me", comment="go")
    told = await helpers.story(ask, run_id)
    (approved,) = helpers.of(told, events.StageApproved)
    assert (approved.by, approved.comment, approved.cause) == ("me", "go", "commands/approve by me")
    assert isinstance(told[-1], events.RunSucceeded)
    again = await ask.approve(run_id, "g", approved=False)
    assert again.state == "succeeded"
    assert len(helpers.of(await helpers.story(ask, run_id), events.StageDenied)) == 0


async def test_a_denied_gate_fails_the_run(ask):
    run_id = await helpers.submit(ask, gated())
    await helpers.wait_state(ask, run_id, "waiting")
    await ask.approve(run_id, "g", approved=False, by="me", comment="no")
    status = await helpers.ended(ask, run_id)
    assert (status.state, status.problem.code) == ("failed", "denied")
    assert status.problem.message == "me denied the stage: no"


async def test_a_gate_that_is_answered_at_once_is_never_forgotten(ask):
    async def one():
        run_id = await helpers.submit(ask, gated())
        await helpers.wait_event(ask, run_id, events.ApprovalRequested)
        await ask.approve(run_id, "g")
        return await helpers.ended(ask, run_id)

    began = asyncio.get_running_loop().time()
    found = [await one() for _ in range(10)] + await asyncio.gather(*(one() for _ in range(10)))
    assert {status.state for status in found} == {"succeeded"}
    assert asyncio.get_running_loop().time() - began < 10


async def test_a_gate_of_an_unknown_stage_is_not_found(ask):
    run_id = await helpers.submit(ask, gated())
    await helpers.wait_state(ask, run_id, "waiting")
    with pytest.raises(client.Refused) as refused:
        await ask.approve(run_id, "other")
    assert refused.value.problem.code == "not_found"
    await ask.cancel(run_id)


async def test_a_gate_that_nobody_answers_expires_while_its_run_is_parked(ask, agent):
    run_id = await helpers.submit(ask, gated(timeout_s=1.0))
    await helpers.wait_state(ask, run_id, "waiting")
    await helpers.wait_until(lambda: agent.host.held(run_id) is None)
    status = await helpers.ended(ask, run_id)
    assert (status.state, status.problem.code) == ("failed", "denied")
    (denied,) = helpers.of(await helpers.story(ask, run_id), events.StageDenied)
    assert denied.by == "time limit"
    asked = await helpers.wait_event(ask, run_id, events.ApprovalRequested)
    assert dt.timedelta() <= denied.at - asked.expires_at < dt.timedelta(seconds=2)


async def test_a_gate_without_any_time_is_shut_and_never_forgotten(ask):
    async def one():
        return await helpers.done(ask, gated(timeout_s=0))

    began = asyncio.get_running_loop().time()
    found = await asyncio.gather(*(one() for _ in range(10)))
    assert {status.problem.code for status, _ in found} == {"denied"}
    assert asyncio.get_running_loop().time() - began < 5


async def test_a_deadline_falls_while_a_run_is_parked(ask):
    run_id = await helpers.submit(ask, gated(), deadline_s=1.0)
    await helpers.wait_state(ask, run_id, "waiting")
    status = await helpers.ended(ask, run_id)
    assert (status.state, status.problem.code) == ("failed", "deadline_exceeded")
    assert status.ended_at - status.accepted_at < dt.timedelta(seconds=3)


async def test_a_parked_run_is_cancelled_at_once(ask, agent):
    run_id = await helpers.submit(ask, gated())
    await helpers.wait_state(ask, run_id, "waiting")
    await helpers.wait_until(lambda: agent.host.held(run_id) is None)
    status = await ask.cancel(run_id, by="me", reason="enough")
    assert status.state == "cancelled"
    (receipt,) = helpers.of(await helpers.story(ask, run_id), events.RunCancelled)
    assert (receipt.by, receipt.reason, receipt.stopped) == ("me", "enough", [])


async def test_no_more_stages_run_at_a_time_than_the_run_allows(ask):
    each = [stage(f"s{i}", "sample.sleep", {"seconds": 0.05}) for i in range(4)]
    _, told = await helpers.done(ask, *each, max_parallel=1)
    at_work = 0
    for event in told:
        if isinstance(event, events.StageStarted | events.StageSucceeded):
            at_work += 1 if isinstance(event, events.StageStarted) else -1
            assert at_work <= 1
