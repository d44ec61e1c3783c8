"""What an agent assigns is done once, whatever becomes of those who assign it and do it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from agent.execution import base
from agent.run import effects
from agent.swarm import assignments, reports
from protocol import problems, swarm
from stages import values
from tests.execution import helpers as executing
from tests.swarm import helpers
from tests.swarm.helpers import half
from tests.swarm.test_taking import in_epoch


def work(use="service.work", *, attempt=1, epoch=1, **params):
    made = executing.work(use, **params)
    key = effects.WorkKey("run-1", "a", None, attempt)
    return msgspec.structs.replace(made, key=key, epoch=epoch, placement="swarm")


def began(trace):
    return len([one for one in helpers.lines(trace) if "began" in one])


async def begin(one, piece):
    return asyncio.create_task(one.executor.run(piece, executing.Watcher()))


async def give_up(task):
    """End a wait as an agent does that lets its run go."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_goes_on_with_a_run_finds_what_was_done_meanwhile(nc, names, artifacts, trace):
    async with half(nc, names, artifacts, "owner", capacity=0) as owner, half(nc, names, artifacts):
        task = await begin(owner, work(trace=str(trace), seconds=0.5))
        await helpers.wait_lines(trace, "began")
        await give_up(task)
        await helpers.wait_empty(nc, names)
        async with half(nc, names, artifacts, "next", capacity=0) as heir:
            again = work(trace=str(trace), seconds=0.5, attempt=2, epoch=2)
            outcome = await heir.executor.run(again, executing.Watcher())
    assert isinstance(outcome, base.Succeeded)
    assert began(trace) == 1


async def test_who_goes_on_with_a_run_waits_for_what_is_still_being_done(
    nc, names, artifacts, trace, tmp_path
):
    go = tmp_path / "go"
    asked = {"trace": str(trace), "until": str(go)}
    async with half(nc, names, artifacts, "owner", capacity=0) as owner, half(nc, names, artifacts):
        await give_up_after_beginning(await begin(owner, work(**asked)), trace)
        await in_epoch(nc, names, "run-1", 2)
        async with half(nc, names, artifacts, "next", capacity=0) as heir:
            again = await begin(heir, work(**asked, attempt=2, epoch=2))
            await asyncio.sleep(0)
            go.touch()
            assert isinstance(await again, base.Succeeded)
    assert began(trace) == 1


async def give_up_after_beginning(task, trace):
    await helpers.wait_lines(trace, "began")
    await give_up(task)


async def test_what_failed_is_assigned_anew_by_the_next_attempt(nc, names, artifacts, trace):
    async with half(nc, names, artifacts) as one:
        asked = {"how": "transient", "times": 1, "trace": str(trace)}
        first = await one.executor.run(work("sample.fail", **asked), executing.Watcher())
        second = await one.executor.run(
            work("sample.fail", **asked, attempt=2), executing.Watcher()
        )
    assert isinstance(first, base.Failed)
    assert isinstance(second, base.Succeeded)
    assert await helpers.kept_reports(nc, names) == 2


async def test_what_a_lost_owner_left_in_the_queue_is_done_for_the_new_one(
    nc, names, artifacts, trace
):
    async with (
        half(nc, names, artifacts, "owner", capacity=0) as owner,
        half(nc, names, artifacts, "next", capacity=0) as heir,
    ):
        lost = await begin(owner, work(trace=str(trace)))
        await helpers.wait_queued(nc, names)
        await in_epoch(nc, names, "run-1", 2)
        mine = await begin(heir, work(trace=str(trace), attempt=2, epoch=2))
        async with half(nc, names, artifacts):
            assert isinstance(await mine, base.Succeeded)
            refused = await lost
    assert refused.problem.code == "conflict"
    assert began(trace) == 1


async def test_a_busy_agent_is_waited_for(nc, names, artifacts, trace, tmp_path):
    go = tmp_path / "go"
    async with half(nc, names, artifacts, capacity=1, take_within_s=0.2) as one:
        await helpers.put(
            nc,
            names,
            helpers.assignment(params={"trace": str(trace), "until": str(go), "name": "busy"}),
        )
        await helpers.wait_lines(trace, "busy began")
        task = await begin(one, work(trace=str(trace), name="mine"))
        _, waiting = await asyncio.wait({task}, timeout=1.0)
        assert waiting
        go.touch()
        assert isinstance(await task, base.Succeeded)


async def test_an_agent_that_drains_counts_as_nobody(nc, names, artifacts):
    async with half(nc, names, artifacts, take_within_s=0.3) as one:
        one.member.stance.become("draining")
        await one.member._presence.show()
        outcome = await one.executor.run(work("sample.noop"), executing.Watcher())
    assert outcome.problem.code == "unavailable"


async def test_an_agent_without_capacity_counts_as_nobody(nc, names, artifacts):
    async with half(nc, names, artifacts, capacity=0, take_within_s=0.3) as one:
        outcome = await one.executor.run(work("sample.noop"), executing.Watcher())
    assert outcome.problem.code == "unavailable"


async def test_a_failure_is_told_whatever_its_report_leaves_out(nc, names, artifacts):
    async with half(nc, names, artifacts, start=False) as one:
        asked = work("sample.noop", epoch=3)
        task = await begin(one, asked)
        await helpers.wait_queued(nc, names)
        problem = problems.Problem("conflict", "it would not do")
        short = swarm.StageReport(next(assignments.ids(asked)), "x", "failed", problem=problem)
        told = msgspec.structs.replace(short, epoch=3)
        assert await reports.Reports(nc, names).give(told)
        assert (await task).problem == problem
        other = msgspec.structs.replace(asked, idempotency_key="other")
        again = await begin(one, other)
        await helpers.wait_queued(nc, names, 2)
        name = next(assignments.ids(other))
        failed = problems.Problem("code_fault", "broken")
        short = swarm.StageReport(name, "x", "failed", problem=failed)
        assert await reports.Reports(nc, names).give(short)
        assert (await again).problem == failed


async def test_a_report_that_cannot_be_read_is_a_failure(nc, names, artifacts):
    async with half(nc, names, artifacts, start=False) as one:
        asked = work("sample.noop")
        task = await begin(one, asked)
        await helpers.wait_queued(nc, names)
        await nc.jetstream().publish(names.report(next(assignments.ids(asked))), b"{")
        assert (await task).problem.code == "invalid_json"


async def test_time_limits_count_from_the_moment_it_is_at_work(nc, names, artifacts, trace):
    watcher = executing.Watcher()
    async with half(nc, names, artifacts, start=False) as one:
        task = asyncio.create_task(one.executor.run(work(trace=str(trace)), watcher))
        _, waiting = await asyncio.wait({task}, timeout=0.3)
        assert waiting
        assert not watcher.at_work.is_set()
        await one.start()
        await task
        assert watcher.at_work.is_set()


async def test_a_report_that_comes_after_a_forced_end_changes_nothing(nc, names, artifacts, trace):
    asked = work(trace=str(trace), seconds=1.0, deaf=True)
    async with half(nc, names, artifacts) as one:
        one.executor.forced_patience_s = 0.3
        task = await begin(one, asked)
        await helpers.wait_lines(trace, "began")
        await one.executor.stop(asked.key, force=True)  # a thread cannot be killed
        stopped = await task
        await helpers.wait_lines(trace, "ended")
        await helpers.wait_empty(nc, names)
    assert (stopped.how, "taker" in stopped.where) == ("forced", True)
    name = next(assignments.ids(asked))
    told = await helpers.report(nc, names, name)
    assert (told.state, told.problem.code) == ("failed", "cancelled")
    assert await helpers.kept_reports(nc, names) == 1


async def test_what_a_lost_agent_assigned_is_recalled(nc, names, artifacts, trace):
    asked = work(trace=str(trace), seconds=60)
    async with half(nc, names, artifacts, "owner", capacity=0) as owner, half(nc, names, artifacts):
        await give_up_after_beginning(await begin(owner, asked), trace)
        await owner.executor.recall(asked)
        assert "stopped" in helpers.lines(trace)[-1]


def test_an_assignment_carries_all_of_the_work(artifacts):
    item = effects.Item(artifacts.put(values.Items([1, 2])), 1)
    asked = executing.work("sample.echo", item=item, into="value", resources={"cpu": 2}, trace="t")
    one = assignments.assign("x", asked)
    back = assignments.work_of(one, "ray", asked.key.attempt)
    assert back == asked


def test_other_work_has_another_name():
    asked = work("sample.add", number=1)
    names = {
        next(assignments.ids(one))
        for one in (
            asked,
            msgspec.structs.replace(asked, seed=8),
            msgspec.structs.replace(asked, params={"number": 2}),
            msgspec.structs.replace(asked, idempotency_key="other"),
            msgspec.structs.replace(asked, key=effects.WorkKey("run-1", "a", 3, 1)),
        )
    }
    assert len(names) == 5
    same = msgspec.structs.replace(asked, key=effects.WorkKey("run-1", "a", None, 9), epoch=5)
    assert next(assignments.ids(same)) in names


def test_a_report_without_a_problem_is_still_an_outcome():
    told = swarm.StageReport("x", "somebody", "failed")
    assert assignments.outcome(told).problem.code == "internal"
