"""What is told of a run where all of it would not fit a message."""

from __future__ import annotations

import msgspec

from agent.run import view
from protocol import artifacts, commands
from tests.run import theatre

COLUMNS = [artifacts.ColumnSchema(f"column-{number}", "double") for number in range(50)]


def status(stages=20):
    table = msgspec.structs.replace(theatre.ref("table"), schema=COLUMNS)
    many = [
        commands.StageStatus(
            id=f"s{number}",
            use="make",
            state="succeeded",
            attempt=2,
            metrics={"a": 1.0},
            outputs={"one": table, "many": [table, table]},
            quarantined=[commands.ElementFailure(0, "data_fault", "bad")],
            elements=3,
        )
        for number in range(stages)
    ]
    return commands.RunStatus("r", "q", "me", "p", "running", theatre.START, stages=many)


def size(one):
    return len(msgspec.json.encode(one))


def test_what_fits_is_told_whole():
    whole = status()
    assert view.fitting(whole, size(whole)) == whole


def test_columns_go_first_then_outputs_then_everything_but_the_state():
    whole = status()
    first = view.fitting(whole, size(whole) - 1)
    assert {ref.schema for stage in first.stages for ref in stage.outputs["many"]} == {None}
    assert {stage.outputs["one"].digest for stage in first.stages} == {theatre.ref("table").digest}
    second = view.fitting(whole, size(first) - 1)
    assert {(len(one.outputs), len(one.metrics)) for one in second.stages} == {(0, 1)}
    third = view.fitting(whole, size(second) - 1)
    assert [one.id for one in third.stages] == [one.id for one in whole.stages]
    assert {(one.state, one.attempt, len(one.metrics)) for one in third.stages} == {
        ("succeeded", 2, 0)
    }
