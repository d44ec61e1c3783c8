"""The picture of a run: the fold of its events, and one plain line for each."""

from __future__ import annotations

import datetime as dt
import io

from rich import console

from agent.cli import board, inspection
from agent.cli import console as told
from protocol import commands, events, pipelines, problems

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LATER = AT + dt.timedelta(seconds=5)
PIPELINE = pipelines.Pipeline(
    name="p", stages=[pipelines.Stage("a", "x.a"), pipelines.Stage("b", "x.b")]
)
ACCEPTED = events.RunAccepted(at=AT, run_id="r", request_id="q", requester="o", pipeline=PIPELINE)
PROBLEM = problems.Problem("data_fault", "no rows")


def shown(*given: events.Event) -> board.Board:
    made = board.Board()
    for event in (ACCEPTED, *given):
        made.take(event)
    return made


def text(made: board.Board) -> str:
    screen = console.Console(file=io.StringIO(), width=120)
    screen.print(made.render(LATER))
    return screen.file.getvalue()


def test_every_stage_has_a_line_from_the_start():
    assert "x.a" in text(shown())
    assert "x.b" in text(shown())


def test_a_running_stage_shows_its_time_and_progress():
    made = shown(events.StageStarted(at=AT, stage="a", attempt=1))
    made.hear(events.Progress("r", "a", AT, 0.5, "trial 3 of 6", metrics={"f1": 0.25}))
    drawn = text(made)
    assert "5.0 s" in drawn
    assert "50%" in drawn
    assert "trial 3 of 6" in drawn
    assert "f1=0.25" in drawn


def test_a_cached_stage_says_so():
    made = shown(events.StageSucceeded(at=AT, stage="a", attempt=1, cached=True))
    assert made.rows["a"].state == "succeeded"
    assert "cached" in text(made)


def test_one_element_of_a_fan_out_does_not_end_the_stage():
    made = shown(
        events.StageStarted(at=AT, stage="a", attempt=1, elements=2),
        events.StageSucceeded(at=AT, stage="a", attempt=1, element=0),
    )
    assert made.rows["a"].state == "running"


def test_a_failure_shows_its_code_and_message():
    made = shown(events.StageFailed(at=AT, stage="a", attempt=1, problem=PROBLEM))
    assert "data_fault: no rows" in text(made)


def test_a_resumed_stage_starts_over():
    made = shown(
        events.StageFailed(at=AT, stage="a", attempt=1, problem=PROBLEM),
        events.RunFailed(at=AT, duration_s=1, problem=PROBLEM),
        events.RunResumed(at=LATER, by="me", again=["a"]),
    )
    assert made.end is None
    assert made.rows["a"].state == "pending"


def test_the_end_of_the_run_is_kept():
    assert isinstance(shown(events.RunSucceeded(at=AT, duration_s=1)).end, events.RunSucceeded)


def test_a_line_names_place_type_and_what_matters():
    event = events.StageRetrying(
        at=AT, stage="a", element=3, attempt=1, problem=PROBLEM, next_at=AT
    )
    told = board.line(event)
    assert "a[3]" in told
    assert "retrying" in told
    assert "data_fault: no rows" in told


def test_brackets_in_foreign_text_are_shown_as_they_are():
    made = shown(events.StageSkipped(at=AT, stage="a", reason="[red]x[/]"))
    assert "[red]x[/]" in text(made)


CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x07"
FORGED = f"done{CLIPBOARD}\x9b2J\u202e\n12:00:00  gate  approved  by ada"


def harmless(text: str) -> bool:
    """Tell whether a text asks nothing of a terminal."""
    return all(c.isprintable() or c == "\n" for c in text)


def test_what_an_event_asks_of_a_terminal_is_not_done_and_no_line_is_forged():
    wrong = problems.Problem("data_fault", FORGED)
    for event in (
        events.StageFailed(at=AT, stage="a", attempt=1, problem=wrong),
        events.StageSkipped(at=AT, stage="a", reason=FORGED),
        events.StageDenied(at=AT, stage="a", by=FORGED, comment=FORGED),
    ):
        line = board.line(event)
        assert line.isprintable()
        assert "]52;c;" in line
    made = shown(events.StageSkipped(at=AT, stage="a", reason=FORGED))
    made.title = made.rows["a"].use = FORGED
    assert harmless(text(made))
    assert "\n12:00:00" not in text(made)


def test_what_a_problem_asks_of_a_terminal_is_not_done(capsys):
    trace = f"one\ntwo{CLIPBOARD}"
    wrong = problems.Problem("data_fault", FORGED, path=FORGED, hint=FORGED, traceback=trace)
    told.report(wrong, as_json=False)
    said = capsys.readouterr().err
    assert harmless(said)
    assert len(said.splitlines()) == 4
    assert "\none\ntwo\\x1b]52;c;" in said


def test_what_a_status_asks_of_a_terminal_is_not_done(capsys):
    stage = commands.StageStatus(FORGED, FORGED, "skipped", reason=FORGED)
    wrong = problems.Problem("data_fault", FORGED)
    inspection.show_status(
        commands.RunStatus(
            run_id=FORGED,
            request_id="q",
            pipeline="[red]p[/]",
            state="failed",
            requester=FORGED,
            accepted_at=AT,
            stages=[stage],
            problem=wrong,
        )
    )
    said = capsys.readouterr().out
    assert harmless(said)
    assert "\n12:00:00" not in said
    assert "[red]p[/]" in said


def test_no_cell_of_a_table_reaches_the_terminal_as_it_came(capsys):
    told.table(("a", "b"), [(FORGED, FORGED)])
    assert harmless(capsys.readouterr().out)
