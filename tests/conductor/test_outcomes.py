"""What an attempt tells fits the journal, or is made to."""

from __future__ import annotations

import msgspec
import pytest

from agent.conductor import outcomes
from agent.execution import base
from protocol import problems

ROOM = 10_000
LONG = "x" * ROOM


@pytest.mark.parametrize(
    "long", [{"traceback": LONG}, {"message": LONG}, {"hint": LONG}, {"path": LONG}]
)
def test_a_failure_is_shortened_until_it_fits_and_stays_what_it_is(long):
    problem = msgspec.structs.replace(
        problems.Problem("data_fault", "so it is", retryable=True), **long
    )
    told = outcomes.storable(base.Failed(problem, log=LONG), ROOM)
    assert len(msgspec.json.encode(told)) <= ROOM
    assert (told.problem.code, told.problem.retryable) == ("data_fault", True)
    assert told.problem.message[:8] in {"so it is", "xxxxxxxx"}


def test_what_is_left_of_a_failure_is_what_fits():
    problem = problems.Problem("data_fault", "so it is", hint="mend it", traceback=LONG)
    told = outcomes.storable(base.Failed(problem), ROOM)
    assert told.problem == problems.Problem("data_fault", "so it is", hint="mend it")
