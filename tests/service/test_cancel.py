"""Cancellation: what is stopped, how, and the receipt that proves it."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from protocol import client, events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS


def work(trace, name, **params):
    told = {"trace": str(trace), "name": name, "seconds": 60, **params}
    return stage(name, "service.work", told)


async def test_the_receipt_lists_what_was_asked_forced_or_not_started(ask, trace):
    run_id = await helpers.submit(
        ask,
        work(trace, "good"),
        work(trace, "deaf", deaf=True),
        work(trace, "queued"),
        stage("after", "sample.noop", needs=["good"]),
    )
    await helpers.wait_line(trace, "good began")
    pid = int((await helpers.wait_line(trace, "deaf began")).split()[-1])
    await helpers.wait_event(ask, run_id, events.StageStarted, "queued")
    await ask.cancel(run_id, by="me", reason="enough", grace_s=0.5)
    told = await helpers.story(ask, run_id)
    receipt = told[-1]
    assert isinstance(receipt, events.RunCancelled)
    assert (receipt.by, receipt.reason) == ("me", "enough")
    proof = {one.stage: one for one in receipt.stopped}
    assert {name: one.how for name, one in proof.items()} == {
        "good": "asked",
        "deaf": "forced",
        "queued": "not_started",
    }
    assert helpers.pid_of(proof["deaf"].where) == pid
    assert helpers.is_gone(pid)
    assert max(helpers.lines(trace)) == "good stopped"
    status = await ask.status(run_id)
    assert {one.state for one in status.stages} == {"cancelled"}
    (asked,) = helpers.of(told, events.CancelRequested)
    grace = dt.timedelta(seconds=0.5)
    assert proof["good"].at - asked.at < grace <= proof["deaf"].at - asked.at


async def test_without_grace_everything_is_forced(ask, trace):
    run_id = await helpers.submit(ask, work(trace, "good"))
    pid = int((await helpers.wait_line(trace, "began")).split()[-1])
    await ask.cancel(run_id, grace_s=0)
    (receipt,) = helpers.of(await helpers.story(ask, run_id), events.RunCancelled)
    assert [one.how for one in receipt.stopped] in (["forced"], ["asked"])
    assert helpers.is_gone(pid) == (receipt.stopped[0].how == "forced")


async def test_a_second_cancellation_may_shorten_the_grace(ask, trace):
    run_id = await helpers.submit(ask, work(trace, "deaf", deaf=True))
    await helpers.wait_line(trace, "began")
    await ask.cancel(run_id, grace_s=60)
    assert (await ask.status(run_id)).state == "cancelling"
    await ask.cancel(run_id, grace_s=0)
    assert (await helpers.ended(ask, run_id)).state == "cancelled"


async def test_what_finished_before_it_could_be_stopped_is_kept(ask, trace):
    run_id = await helpers.submit(
        ask,
        stage("a", "sample.noop"),
        stage("b", "service.work", {"trace": str(trace), "seconds": 0.6, "deaf": True}),
        stage("c", "sample.noop", needs=["b"]),
    )
    await helpers.wait_line(trace, "began")
    await ask.cancel(run_id, grace_s=20)
    told = await helpers.story(ask, run_id)
    status = await ask.status(run_id)
    assert status.state == "cancelled"
    states = {name: one.state for name, one in helpers.by_id(status).items()}
    assert states["a"] == "succeeded"
    assert states["c"] == "cancelled"
    (stopped,) = told[-1].stopped
    assert (stopped.stage, stopped.how) in {("b", "finished"), ("b", "asked")}


async def test_every_element_of_a_fan_that_is_stopped_is_listed(ask):
    run_id = await helpers.submit(
        ask,
        stage("l", "sample.items", {"items": [0, 1, 2, 3]}),
        stage("f", "sample.sleep", {"deaf": False}, for_each={"items": "l", "as": "seconds"}),
    )
    await helpers.wait_event(ask, run_id, events.StageStarted, "f")
    await ask.cancel(run_id)
    receipt = (await helpers.story(ask, run_id))[-1]
    assert {one.element for one in receipt.stopped} <= {0, 1, 2, 3}
    assert len(receipt.stopped) >= 3
    assert {one.how for one in receipt.stopped} <= {"asked", "not_started", "finished"}


async def test_a_stage_inside_the_agent_is_asked_to_stop(ask, trace):
    here = work(trace, "here") | {"placement": "agent"}
    run_id = await helpers.submit(ask, here)
    await helpers.wait_line(trace, "began")
    await ask.cancel(run_id)
    receipt = (await helpers.story(ask, run_id))[-1]
    assert [one.how for one in receipt.stopped] == ["asked"]
    assert helpers.lines(trace)[-1] == "here stopped"


async def test_a_run_waiting_for_a_retry_is_cancelled_at_once(ask):
    retry = {"backoff_s": 60}
    run_id = await helpers.submit(ask, stage("a", "sample.fail", {"how": "transient"}, retry=retry))
    await helpers.wait_event(ask, run_id, events.StageRetrying)
    await ask.cancel(run_id)
    assert (await helpers.ended(ask, run_id)).state == "cancelled"


async def test_a_run_cancelled_as_soon_as_it_is_accepted_is_never_stuck(ask):
    async def one(after):
        run_id = await helpers.submit(ask, stage("a", "sample.sleep", {"seconds": 20}))
        await asyncio.sleep(after)
        began = asyncio.get_running_loop().time()
        await ask.cancel(run_id)
        assert (await helpers.ended(ask, run_id)).state == "cancelled"
        assert asyncio.get_running_loop().time() - began < helpers.LEASE_S

    for number in range(20):
        await asyncio.gather(*(one(number / 2000) for _ in range(5)))


async def test_an_unknown_or_finished_run_cannot_be_cancelled(ask):
    status, _ = await helpers.done(ask, stage("a", "sample.noop"))
    for run_id, code in ((status.run_id, "conflict"), ("nobody", "not_found")):
        with pytest.raises(client.Refused) as refused:
            await ask.cancel(run_id)
        assert refused.value.problem.code == code
