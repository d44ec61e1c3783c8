"""What was at work on a shared cluster when its agent was lost: it goes on under the next."""

from __future__ import annotations

import os
import signal

import pytest

from protocol import events
from tests.ownership import cases
from tests.service import helpers

pytestmark = [*helpers.MARKS, pytest.mark.slow]


async def test_a_stage_goes_on_when_its_agent_is_killed(case):
    first = await case.agent("first")
    run_id, pid = await case.at_work()
    await case.agent("second")
    await first.kill()
    await case.adopted(run_id)
    assert not helpers.is_gone(pid)
    await case.goes_on(run_id)
    await helpers.wait_until(lambda: helpers.is_gone(pid))


async def test_a_result_that_its_agent_did_not_live_to_take_is_taken(case):
    first = await case.agent("first")
    run_id, _ = await case.at_work()
    first.send(signal.SIGSTOP)
    case.go.touch()
    await helpers.wait_line(case.trace, "b ended")
    await first.kill()
    await case.agent("second")
    await case.goes_on(run_id)


async def test_a_stage_survives_two_agents(case):
    first = await case.agent("first")
    run_id, _ = await case.at_work()
    third = await case.agent("third")
    await first.kill()
    await case.adopted(run_id)
    await case.agent("second")
    await third.kill()
    await case.adopted(run_id, times=2)
    await case.goes_on(run_id)


async def test_a_stage_whose_worker_has_died_too_is_repeated(case):
    first = await case.agent("first")
    run_id, pid = await case.at_work()
    await first.kill()
    os.kill(pid, signal.SIGKILL)
    await case.agent("second")
    case.go.touch()
    assert await case.owner_at_end(run_id) == "second"
    told = await helpers.story(case.ask, run_id)
    begun = [e.attempt for e in told if isinstance(e, events.StageStarted) and e.stage == "b"]
    assert begun == [1, 2]
    assert (await case.judged(run_id)).findings == []


async def test_a_worker_that_dies_after_it_was_adopted_is_noticed(case):
    first = await case.agent("first")
    run_id, pid = await case.at_work()
    await case.agent("second")
    await first.kill()
    await case.adopted(run_id)
    os.kill(pid, signal.SIGKILL)
    await helpers.wait_until(lambda: case.count()["b"] == 2)
    case.go.touch()
    assert await case.owner_at_end(run_id) == "second"
    assert (await case.judged(run_id)).findings == []


@pytest.mark.parametrize("deaf", [False, True])
async def test_what_was_adopted_can_be_cancelled(case, deaf):
    first = await case.agent("first")
    run_id, pid = await case.at_work(deaf=deaf)
    await case.agent("second")
    await first.kill()
    await case.adopted(run_id)
    await case.ask.cancel(run_id, grace_s=0.5)
    told = await helpers.story(case.ask, run_id)
    assert isinstance(told[-1], events.RunCancelled)
    stopped = [(one.stage, one.attempt, one.how) for one in told[-1].stopped]
    assert stopped == [("b", 1, "forced" if deaf else "asked")]
    await helpers.wait_until(lambda: helpers.is_gone(pid))


async def test_a_run_that_was_being_stopped_leaves_no_worker_behind(case):
    first = await case.agent("first")
    run_id, pid = await case.at_work(deaf=True)
    await case.ask.cancel(run_id, grace_s=60.0)
    await first.kill()
    await case.agent("second")
    told = await helpers.story(case.ask, run_id)
    assert isinstance(told[-1], events.RunCancelled)
    assert helpers.is_gone(pid)


async def test_workers_that_nobody_wants_end_by_themselves(case):
    before = cases.workers()
    first = await case.agent("first")
    _, pid = await case.at_work()
    await helpers.wait_until(lambda: len(cases.workers() - before) == 2)
    others = cases.workers() - before - {pid}
    assert others
    await first.kill()
    await helpers.wait_until(lambda: all(map(helpers.is_gone, others)))
    assert not helpers.is_gone(pid)  # it finishes what it is at
    case.go.touch()
    await helpers.wait_line(case.trace, "b ended")
    await helpers.wait_until(lambda: helpers.is_gone(pid))
