"""A run whose former owner's attempts are found at work: they go on under their numbers."""

from __future__ import annotations

from agent.run import machine, stimuli
from protocol import events, pipelines
from tests.run import theatre


def taken_again(play, *kept):
    """Lose the agent, but not these attempts."""
    play.live.clear()
    play.timers.clear()
    play.machine = machine.Machine.from_events(play.plan, play.log)
    play.epoch += 1
    return play.send(stimuli.Taken("a", play.epoch, kept=frozenset(kept)))


def pair():
    play = theatre.Theatre(
        pipelines.Stage("a", "make"), pipelines.Stage("b", "work", inputs={"table": "a"})
    )
    play.take()
    return play


def test_what_is_found_goes_on_once_that_is_stored():
    play = pair()
    told = taken_again(play, play.key("a"))
    assert told[:2] == ["run.recovered", "stage.started a#1"]
    launch = play.launched[-1]
    assert (launch.after_commit, launch.work.adopt, launch.work.epoch) == (True, True, 2)
    play.ok("a")
    play.ok("b")
    assert play.run == "succeeded"


def test_what_is_not_found_is_repeated():
    play = pair()
    play.ok("a")
    told = taken_again(play, play.key("b").__class__("other", "b", None, 1))
    assert told[:2] == ["run.recovered", "stage.started b#2"]
    assert not play.launched[-1].work.adopt


def test_what_was_found_and_is_gone_after_all_is_tried_again_at_no_cost():
    play = pair()
    taken_again(play, play.key("a"))
    play.fail("a", "preempted", retryable=True)
    assert play.stage("a").state == "retrying"
    assert isinstance(play.log[-1], events.StageRetrying)
