"""A run that is taken only to be ended: nothing of it starts, and it can be resumed."""

from __future__ import annotations

from agent.run import machine, stimuli
from protocol import pipelines, problems
from tests.run import theatre

HARMFUL = problems.Problem("worker_lost", "3 agents in a row were lost")


def chain():
    return theatre.Theatre(
        pipelines.Stage("a", "make"),
        pipelines.Stage("b", "work", inputs={"table": "a"}),
        pipelines.Stage("c", "work", inputs={"table": "b"}),
    )


def put_aside(play):
    """Lose the agent; let the next one end the run."""
    play.live.clear()
    play.timers.clear()
    play.machine = machine.Machine.from_events(play.plan, play.log)
    play.epoch += 1
    return play.send(stimuli.Taken("a", play.epoch, HARMFUL))


def test_what_was_at_work_is_cancelled_and_the_run_fails_with_the_reason():
    play = chain()
    play.take()
    play.ok("a")
    assert put_aside(play) == [
        "run.recovered",
        "stage.cancelled b#1",
        "stage.cancelled c",
        "run.failed",
        "> Warn",
        "> End failed",
    ]
    assert play.machine.state.problem == HARMFUL
    assert play.stage("a").state == "succeeded"


def test_it_can_be_resumed_from_what_was_at_work():
    play = chain()
    play.take()
    play.ok("a")
    put_aside(play)
    play.send(stimuli.ResumeAsked("ada"))
    assert "> Launch b#2" in play.take()
    play.ok("b")
    play.ok("c")
    assert play.run == "succeeded"


def test_the_journal_folds_to_the_same_end():
    play = chain()
    play.take()
    put_aside(play)
    again = machine.Machine.from_events(play.plan, play.log)
    assert (again.state.run, again.state.problem) == ("failed", HARMFUL)


def test_a_run_that_was_being_cancelled_is_cancelled():
    play = chain()
    play.take()
    play.send(stimuli.CancelAsked("ada"))
    told = put_aside(play)
    assert "run.cancelled" in told
    assert told[-1] == "> End cancelled"


def test_a_run_that_waited_for_its_next_attempt_or_an_answer_is_ended_too():
    play = theatre.Theatre(
        pipelines.Stage("a", "make", retry=pipelines.Retry(max_attempts=2)),
        pipelines.Stage("g", "make", approval=pipelines.Approval(timeout_s=5)),
    )
    play.take()
    play.fail("a", "transient", retryable=True)
    assert put_aside(play)[-1] == "> End failed"
    assert play.machine.state.open == 0
