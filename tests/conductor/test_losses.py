"""What a journal tells of the agents that a run was lost with."""

from __future__ import annotations

import datetime as dt

from agent.conductor import losses
from protocol import events

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def at(seconds):
    return START + dt.timedelta(seconds=seconds)


def commit(*facts, released=False):
    return events.Commit("r", 1, 1, "a", START, "", list(facts), released=released)


def started(seconds):
    return events.RunStarted(at=at(seconds), owner="a", epoch=1)


def recovered(seconds):
    return events.RunRecovered(at=at(seconds), owner="a", epoch=2)


def begun(seconds):
    return events.StageStarted(at=at(seconds), stage="s", attempt=1)


def ended(seconds):
    return events.StageSucceeded(at=at(seconds), stage="s", attempt=1)


RELEASE = commit(released=True)


def test_a_run_that_nobody_took_was_not_lost():
    assert losses.find([]).weight(at(0)) == 0


def test_each_hold_that_ended_nothing_is_a_loss():
    journal = [
        commit(started(0), begun(0)),
        commit(recovered(15), begun(15)),
        commit(recovered(30)),
    ]
    assert losses.find(journal).weight(at(45)) == 30


def test_what_came_to_an_end_is_progress_and_the_count_begins_anew():
    journal = [commit(started(0), begun(0)), commit(recovered(15), ended(16), begun(16))]
    assert losses.find(journal).weight(at(30)) == 0
    assert losses.find([*journal, commit(recovered(30), begun(30))]).weight(at(45)) == 10


def test_what_was_given_back_in_order_is_no_loss():
    journal = [commit(started(0), begun(0)), RELEASE, commit(recovered(1), begun(1))]
    assert losses.find(journal).weight(at(15)) == 10
    assert losses.find([*journal, RELEASE]).weight(at(15)) == 0


def test_a_release_speaks_for_its_own_hold_alone():
    journal = [commit(started(0)), commit(recovered(15)), RELEASE, commit(recovered(16))]
    assert losses.find(journal).weight(at(31)) == 20


def test_who_was_held_for_long_did_not_bring_its_agent_down_at_once():
    journal = [commit(started(0)), commit(recovered(100)), commit(recovered(115))]
    assert losses.find(journal).weight(at(130)) == 21
    assert losses.find(journal).weight(at(1000)) == 12


def test_a_run_is_suspect_after_two_losses_and_ended_after_the_limit():
    journal = [commit(started(0)), commit(recovered(15)), commit(recovered(30))]
    assert not losses.find(journal[:1]).suspect(at(15))
    assert losses.find(journal[:2]).suspect(at(30))
    assert losses.find(journal).problem(at(45), 4, ["s"]) is None
    problem = losses.find(journal).problem(at(45), 3, ["s", "t"])
    assert problem.code == "worker_lost"
    assert "3 agents" in problem.message
    assert "s, t" in problem.message


def test_a_run_that_ends_its_agents_slowly_is_found_too():
    journal = [commit(started(0)), *(commit(recovered(100 * n)) for n in range(1, 30))]
    assert losses.find(journal).problem(at(3000), 3, []) is not None


def test_suspects_are_begun_one_after_the_other():
    trials = losses.Trials()
    assert trials.may_begin("a", 0.0, suspect=True)
    assert trials.may_begin("a", 1.0, suspect=True)  # it was fenced, and is read again
    assert not trials.may_begin("b", 59.0, suspect=True)
    assert trials.may_begin("b", 61.5, suspect=True)


def test_a_suspect_that_is_held_no_longer_makes_way():
    trials = losses.Trials()
    assert trials.may_begin("a", 0.0, suspect=True)
    trials.over("a")
    assert trials.may_begin("b", 1.0, suspect=True)


def test_what_was_lost_once_goes_on_at_once_but_not_beside_a_suspect():
    trials = losses.Trials()
    assert all(trials.may_begin(name, 0.0, suspect=False) for name in "abc")
    assert not trials.may_begin("s", 1.0, suspect=True)
    assert trials.may_begin("s", 61.0, suspect=True)
    assert not trials.may_begin("d", 62.0, suspect=False)
