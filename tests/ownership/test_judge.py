"""The judge finds every kind of broken promise, and none in a journal that is as promised."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from agent.artifacts import store
from protocol import artifacts, chain, codec, events, pipelines
from scripts.chaos_parts import judge
from stages import values

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
BASE = {"at": AT, "cause": ""}


def accepted(run_id="r1", request_id="q1"):
    return events.RunAccepted(
        **BASE,
        run_id=run_id,
        request_id=request_id,
        requester="somebody",
        pipeline=pipelines.Pipeline("p", [pipelines.Stage(id="a", use="sample.noop")]),
    )


def taken(epoch, owner="one"):
    kind = events.RunStarted if epoch == 1 else events.RunRecovered
    return kind(**BASE, owner=owner, epoch=epoch)


def started(attempt=1, stage="a"):
    return events.StageStarted(**BASE, stage=stage, attempt=attempt)


def succeeded(attempt=1, stage="a", **outputs):
    return events.StageSucceeded(**BASE, stage=stage, attempt=attempt, outputs=outputs)


def ended():
    return events.RunSucceeded(**BASE, duration_s=1.0)


def resumed(*again):
    return events.RunResumed(**BASE, by="x", again=list(again))


def journal(*groups, run_id="r1"):
    """Write groups of events as commits that follow each other."""
    found, epoch = [], 0
    for number, facts in enumerate(groups, start=1):
        epoch = max([epoch, *(one.epoch for one in facts if hasattr(one, "epoch"))])
        previous = chain.digest(found[-1]) if found else ""
        commit = events.Commit(
            run_id=run_id,
            number=number,
            epoch=epoch,
            owner="one",
            at=AT,
            previous=previous,
            events=list(facts),
        )
        found.append(codec.encode(commit))
    return found


WHOLE = ([accepted()], [taken(1), started()], [taken(2), started(2)], [succeeded(2), ended()])


def kinds(journals, accepted=()):
    return [one.broken for one in judge.examine(journals, accepted)]


def test_a_journal_that_is_as_promised_is_not_reproached():
    more = ([resumed("a")], [taken(3), started(1)], [succeeded(1), ended()])
    assert kinds({"r1": journal(*WHOLE, *more)}, ["r1"]) == []


@pytest.mark.parametrize(
    ("groups", "broken"),
    [
        ([[taken(1)], [accepted()], [ended()]], "acceptance_is_not_first"),
        ([[accepted()], [taken(1), started()]], "not_ended"),
        ([*WHOLE, [ended()]], "ended_twice"),
        ([*WHOLE, [started(3)]], "went_on_after_its_end"),
        ([*WHOLE[:3], [taken(2)], [ended()]], "took_over_under_an_old_epoch"),
        ([*WHOLE[:2], [started()], [ended()]], "attempt_began_twice"),
        ([*WHOLE[:2], [succeeded()], [succeeded()], [ended()]], "stage_succeeded_twice"),
    ],
)
def test_a_broken_promise_is_found(groups, broken):
    assert kinds({"r1": journal(*groups)}) == [broken]


def test_a_gap_and_a_change_break_the_chain():
    whole = journal(*WHOLE)
    assert "chain" in kinds({"r1": [whole[0], *whole[2:]]})
    changed = json.loads(whole[1]) | {"owner": "another"}
    assert "chain" in kinds({"r1": [whole[0], json.dumps(changed).encode(), *whole[2:]]})


def test_an_accepted_run_that_is_not_there_is_missed():
    assert kinds({"r1": journal(*WHOLE)}, ["r1", "r2"]) == ["accepted_run_is_missing"]


def test_a_request_that_became_two_runs_is_found():
    other = journal([accepted("r2")], *WHOLE[1:], run_id="r2")
    assert kinds({"r1": journal(*WHOLE), "r2": other}) == ["request_has_two_runs"]


def test_an_artifact_is_read_and_missed(tmp_path):
    kept = store.Store(tmp_path.as_uri(), tmp_path / "copies")
    made = kept.put(values.Report({"text": "x" * 5000}))
    gone = artifacts.ArtifactRef("report", f"sha256:{'0' * 64}", f"{tmp_path.as_uri()}/x", "a/b", 1)
    groups = [*WHOLE[:3], [succeeded(2, x=made, y=[gone]), ended()]]
    found = judge.weigh({"r1": journal(*groups)}, kept, ["r1"])
    assert [one.broken for one in found.findings] == ["artifact_unreadable"]
    assert (found.runs, found.commits, found.artifacts, found.takeovers) == (1, 4, 2, 1)
