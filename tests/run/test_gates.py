"""Gates whose time runs out while nobody holds the run, or at the very moment it is parked."""

from __future__ import annotations

import datetime as dt

from agent.run import stimuli
from protocol import pipelines
from tests.run import theatre

S = pipelines.Stage


def gated(timeout_s: float = 10.0, **options) -> theatre.Theatre:
    gate = pipelines.Approval(timeout_s=timeout_s)
    world = theatre.Theatre(S("a", "make", approval=gate), options=pipelines.Options(**options))
    world.take()
    return world


def later(world: theatre.Theatre, seconds: float) -> None:
    world.now += dt.timedelta(seconds=seconds)


def test_a_gate_that_expired_while_nobody_held_the_run_is_shut_when_it_is_taken():
    world = gated()
    later(world, 10)
    assert world.crash()[:3] == ["run.recovered", "stage.denied a", "stage.failed a"]
    assert world.run == "failed"


def test_a_gate_that_has_time_left_parks_the_run_again():
    world = gated()
    later(world, 9)
    assert world.crash() == ["run.recovered", "> SetTimer approval/a", "> Park"]


def test_a_run_past_its_deadline_does_not_mind_its_gates():
    world = gated(deadline_s=5)
    later(world, 20)
    assert world.crash()[:3] == ["run.recovered", "stage.cancelled a", "run.failed"]
    assert world.machine.state.problem.code == "deadline_exceeded"


def test_a_timer_that_fires_before_the_run_is_let_go_is_a_fact_but_starts_nothing():
    world = gated(timeout_s=0)
    assert world.send(stimuli.TimerFired("approval/a")) == [
        "stage.denied a",
        "> ClearTimer approval/a",
    ]
    assert not world.machine.state.parked  # whoever lets it go must queue it again
    assert world.crash()[:2] == ["run.recovered", "stage.failed a"]
