"""The list of runs, folded from commits alone."""

from __future__ import annotations

import datetime as dt

import pytest

from agent.conductor import index
from protocol import codec, commands, events, pipelines, problems

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PROBLEM = problems.Problem("data_fault", "no")


def at(seconds):
    return START + dt.timedelta(seconds=seconds)


def accepted(*names, run_id="r", seconds=0, **options):
    stages = [pipelines.Stage(id=name, use="x") for name in names or ("a",)]
    return events.RunAccepted(
        at=at(seconds),
        run_id=run_id,
        request_id="q",
        requester="me",
        pipeline=pipelines.Pipeline("p", stages),
        options=pipelines.Options(**options),
    )


def started(stage, element=None):
    return events.StageStarted(at=START, stage=stage, attempt=1, element=element)


def succeeded(stage, element=None):
    return events.StageSucceeded(at=START, stage=stage, attempt=1, element=element)


def asked(stage, expires=None):
    expires_at = None if expires is None else at(expires)
    return events.ApprovalRequested(at=START, stage=stage, expires_at=expires_at)


RUNNING = events.RunStarted(at=START, owner="a", epoch=1)
RECOVERED = events.RunRecovered(at=START, owner="b", epoch=2)
ENDED = events.RunSucceeded(at=at(9), duration_s=9)
FAILED = events.RunFailed(at=at(9), duration_s=9, problem=PROBLEM)
CANCELLED = events.RunCancelled(at=at(9))
ASKED = events.CancelRequested(at=START, by="me")


async def folded(*facts, listing=None, run_id="r"):
    """Fold facts in, one commit each."""
    found = listing or index.Index()
    for fact in facts:
        commit = events.Commit(run_id, 1, 1, "a", START, "", [fact])
        await found.take(run_id, codec.encode(commit))
    return found


def line(listing):
    (found,) = listing.matching(commands.RunListQuery()).runs
    return found


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ((), "queued"),
        ((RUNNING,), "running"),
        ((RUNNING, RECOVERED), "running"),
        ((RUNNING, ENDED), "succeeded"),
        ((RUNNING, FAILED), "failed"),
        ((RUNNING, ASKED), "cancelling"),
        ((RUNNING, ASKED, RECOVERED), "cancelling"),
        ((RUNNING, ASKED, CANCELLED), "cancelled"),
        ((RUNNING, FAILED, events.RunResumed(at=START, by="me", again=["a"])), "queued"),
        ((RUNNING, asked("a")), "waiting"),
        ((RUNNING, started("b"), asked("a")), "running"),
        ((RUNNING, started("b"), asked("a"), succeeded("b")), "waiting"),
        ((RUNNING, asked("a"), events.StageApproved(at=START, stage="a", by="me")), "running"),
        ((RUNNING, asked("a"), events.StageDenied(at=START, stage="a", by="me")), "running"),
        ((RUNNING, asked("a"), ASKED), "cancelling"),
        ((RUNNING, asked("a"), FAILED), "failed"),
    ],
)
async def test_a_run_s_state_follows_from_its_commits(facts, state):
    assert line(await folded(accepted("a", "b"), *facts)).state == state


async def test_a_fan_with_one_element_at_work_is_not_waiting():
    fan = (started("f"), started("f", 0), started("f", 1), succeeded("f", 0))
    listing = await folded(accepted("f", "g"), RUNNING, *fan, asked("g"))
    assert line(listing).state == "running"
    await folded(succeeded("f", 1), succeeded("f"), listing=listing)
    assert line(listing).state == "waiting"
    assert line(listing).stages_done == 1


async def test_a_retry_that_is_waited_for_is_work():
    retrying = events.StageRetrying(at=START, stage="a", attempt=1, problem=PROBLEM, next_at=at(60))
    listing = await folded(accepted("a", "b"), RUNNING, started("a"), asked("b"), retrying)
    assert line(listing).state == "running"


async def test_stages_that_ended_are_counted_and_those_that_run_again_are_not():
    failed = events.StageFailed(at=START, stage="b", attempt=1, problem=PROBLEM)
    cancelled = events.StageCancelled(at=START, stage="c")
    listing = await folded(accepted("a", "b", "c"), RUNNING, succeeded("a"), failed, cancelled)
    assert line(listing).stages_done == 3
    resumed = events.RunResumed(at=START, by="me", again=["b", "c"])
    await folded(FAILED, resumed, listing=listing)
    assert (line(listing).stages, line(listing).stages_done) == (3, 1)
    assert line(listing).ended_at is None


async def test_a_commit_that_cannot_be_read_is_passed_over():
    listing = await folded(accepted())
    await listing.take("r", b"{nonsense")
    await listing.take("x", b"\xff")
    await folded(ENDED, listing=listing)
    assert line(listing).state == "succeeded"


async def test_facts_of_a_run_that_was_never_accepted_are_passed_over():
    listing = await folded(RUNNING, ENDED, run_id="x")
    assert listing.matching(commands.RunListQuery()).runs == []


async def test_a_run_stirs_until_it_ends_or_waits_for_somebody():
    listing = await folded(accepted(priority=7))
    assert listing.stirring(START) == {"r": 7}
    await folded(RUNNING, listing=listing)
    assert listing.stirring(START) == {"r": 7}
    await folded(asked("a"), listing=listing)
    assert listing.stirring(START) == {}
    await folded(ASKED, listing=listing)
    assert listing.stirring(START) == {"r": 7}
    await folded(CANCELLED, listing=listing)
    assert listing.stirring(START) == {}


async def test_a_parked_run_stirs_when_its_gate_expires_or_its_deadline_falls():
    gate = await folded(accepted("a", "b", priority=1), RUNNING, asked("a", 20), asked("b", 10))
    assert gate.next_wake() == at(10)
    assert gate.stirring(at(9)) == {}
    assert gate.stirring(at(10)) == {"r": 1}
    await folded(accepted(run_id="s", deadline_s=5), RUNNING, asked("a"), listing=gate, run_id="s")
    assert gate.next_wake() == at(5)
    assert set(gate.stirring(at(5))) == {"s"}
    approved = events.StageApproved(at=START, stage="b", by="me")
    await folded(approved, listing=gate)
    assert gate.next_wake() == at(5)


async def test_the_deadline_of_a_resumed_run_counts_from_the_resume():
    resumed = events.RunResumed(at=at(100), by="me", again=["a"])
    listing = await folded(accepted(deadline_s=5), RUNNING, FAILED, resumed, RECOVERED, asked("a"))
    assert listing.next_wake() == at(105)


async def test_it_is_told_when_a_run_begins_to_wait():
    listing = await folded(accepted("a", "b"), RUNNING, started("b"), asked("a"))
    assert not listing.parked.is_set()
    await folded(succeeded("b"), listing=listing)
    assert listing.parked.is_set()
