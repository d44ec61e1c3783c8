"""What becomes of an attempt that fails, dies, runs out of memory or takes too long."""

from __future__ import annotations

import datetime as dt
import os
import signal

import pytest

from protocol import events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS
QUICK = {"backoff_s": 0.1, "jitter": 0, "max_attempts": 3}
MIB = 1 << 20


async def test_a_transient_fault_is_tried_again_after_a_growing_wait(ask, trace):
    params = {"how": "transient", "times": 2, "trace": str(trace)}
    status, told = await helpers.done(ask, stage("a", "sample.fail", params, retry=QUICK))
    assert status.state == "succeeded"
    assert status.stages[0].attempt == 3
    retries = helpers.of(told, events.StageRetrying)
    assert [one.attempt for one in retries] == [1, 2]
    assert {one.problem.code for one in retries} == {"transient"}
    waits = [(one.next_at - one.at) / dt.timedelta(seconds=1) for one in retries]
    assert waits == pytest.approx([0.1, 0.2])
    started = helpers.of(told, events.StageStarted)
    assert [one.attempt for one in started] == [1, 2, 3]
    for start, retry in zip(started[1:], retries, strict=True):
        assert start.at >= retry.next_at
    assert "about to fail" in retries[0].log


async def test_the_last_attempt_s_problem_is_the_stage_s_and_the_run_s(ask):
    status, told = await helpers.done(
        ask, stage("a", "sample.fail", {"how": "transient"}, retry=QUICK | {"max_attempts": 2})
    )
    assert status.state == "failed"
    assert status.problem == status.stages[0].problem
    assert status.problem.code == "transient"
    assert len(helpers.of(told, events.StageRetrying)) == 1
    assert helpers.of(told, events.StageFailed)[0].attempt == 2


async def test_a_code_may_have_a_limit_of_its_own(ask):
    codes = {"transient": 4, "code_fault": 2}
    patient = QUICK | {"max_attempts": 1, "factor": 1, "codes": codes}
    for how, attempts in (("transient", 4), ("code", 2), ("data", 1)):
        status, _ = await helpers.done(ask, stage("a", "sample.fail", {"how": how}, retry=patient))
        assert status.stages[0].attempt == attempts, how


@pytest.mark.parametrize(
    ("how", "code"),
    [("data", "data_fault"), ("code", "code_fault"), ("not_allowed", "not_allowed")],
)
async def test_what_would_fail_again_is_not_tried_again(ask, how, code):
    status, told = await helpers.done(ask, stage("a", "sample.fail", {"how": how}, retry=QUICK))
    assert status.state == "failed"
    assert status.problem.code == code
    assert helpers.of(told, events.StageRetrying) == []


async def test_out_of_memory_raises_the_limit_until_it_is_enough(ask):
    needs = {"memory_bytes": 100 * MIB, "max_memory_bytes": 800 * MIB}
    status, told = await helpers.done(
        ask,
        stage("a", "sample.allocate", {"bytes": 300 * MIB}, resources=needs, retry=QUICK),
    )
    assert status.state == "succeeded"
    started = helpers.of(told, events.StageStarted)
    assert [one.memory_bytes for one in started] == [100 * MIB, 200 * MIB, 400 * MIB]
    retries = helpers.of(told, events.StageRetrying)
    assert {one.problem.code for one in retries} == {"out_of_memory"}


async def test_out_of_memory_at_the_highest_limit_is_the_end(ask):
    needs = {"memory_bytes": 100 * MIB, "max_memory_bytes": 150 * MIB}
    status, told = await helpers.done(
        ask, stage("a", "sample.allocate", {"bytes": 400 * MIB}, resources=needs, retry=QUICK)
    )
    assert status.problem.code == "out_of_memory"
    started = helpers.of(told, events.StageStarted)
    assert [one.memory_bytes for one in started] == [100 * MIB, 150 * MIB]


async def test_a_worker_that_dies_is_noticed_and_the_attempt_made_again(ask, trace):
    status, told = await helpers.done(
        ask, stage("a", "sample.die", retry=QUICK | {"max_attempts": 2})
    )
    assert status.problem.code == "worker_lost"
    assert len(helpers.of(told, events.StageRetrying)) == 1
    work = stage("a", "service.work", {"trace": str(trace), "seconds": 1.0}, retry=QUICK)
    run_id = await helpers.submit(ask, work)
    pid = int((await helpers.wait_line(trace, "began")).split()[-1])
    os.kill(pid, signal.SIGKILL)
    status = await helpers.ended(ask, run_id)
    assert (status.state, status.stages[0].attempt) == ("succeeded", 2)
    assert [line.split()[1] for line in helpers.lines(trace)] == ["began", "began", "ended"]


async def test_a_stage_that_takes_too_long_is_really_stopped(ask, trace):
    once = {"max_attempts": 1}
    for deaf in (False, True):
        params = {"trace": str(trace), "seconds": 30, "deaf": deaf}
        status, _ = await helpers.done(
            ask, stage("a", "service.work", params, timeout_s=0.3, retry=once)
        )
        assert status.problem.code == "timeout"
        assert "0.3 s" in status.problem.message
        assert status.stages[0].duration_s is None
    began, stopped, deaf_began = helpers.lines(trace)
    assert stopped == "work stopped"
    assert began
    assert helpers.is_gone(int(deaf_began.split()[-1]))


async def test_a_timeout_is_tried_again(ask, trace):
    params = {"trace": str(trace), "seconds": 30}
    status, told = await helpers.done(
        ask,
        stage("a", "service.work", params, timeout_s=0.3, retry=QUICK | {"max_attempts": 2}),
    )
    assert status.stages[0].attempt == 2
    assert helpers.of(told, events.StageRetrying)[0].problem.code == "timeout"
    assert [line.split()[1] for line in helpers.lines(trace)] == ["began", "stopped"] * 2


async def test_a_time_limit_does_not_count_the_wait_for_a_worker(ask, trace):
    items = stage("l", "sample.items", {"items": list(range(6))})
    fan = stage(
        "f",
        "service.each",
        {"trace": str(trace), "seconds": 0.5},
        for_each={"items": "l"},
        timeout_s=1.0,
    )
    status, told = await helpers.done(ask, items, fan)
    assert status.state == "succeeded"
    assert helpers.of(told, events.StageRetrying) == []
    began, ended = (
        helpers.of(told, kind, "f")[0].at for kind in (events.StageStarted, events.StageSucceeded)
    )
    *_, fan_ended = helpers.of(told, events.StageSucceeded, "f")
    assert fan_ended.at - began > dt.timedelta(seconds=1.4)  # the last ones waited for a second
    assert ended


async def test_a_run_past_its_deadline_is_stopped_and_fails(ask, trace):
    status, _ = await helpers.done(
        ask,
        stage("a", "service.work", {"trace": str(trace), "seconds": 30}),
        stage("b", "sample.noop", needs=["a"]),
        deadline_s=0.7,
    )
    assert status.state == "failed"
    assert status.problem.code == "deadline_exceeded"
    assert [one.state for one in status.stages] == ["cancelled", "cancelled"]
    assert helpers.lines(trace)[-1] == "work stopped"
    assert (status.ended_at - status.accepted_at) < dt.timedelta(seconds=2.5)
