"""Owns the picture of a run while it is watched: one line per stage, folded from its events."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from agent.cli import console
from protocol import events

MARKS = {
    "pending": "·",
    "running": "●",
    "retrying": "↻",
    "waiting": "?",
    "succeeded": "✓",
    "failed": "✗",
    "skipped": "-",
    "cancelled": "■",
}
ENDS = (events.RunSucceeded, events.RunFailed, events.RunCancelled)
BAR = 12


class Row:
    """One stage as it is shown."""

    def __init__(self, stage: str, use: str) -> None:
        self.stage = stage
        self.use = use
        self.state = "pending"
        self.note = ""
        self.fraction: float | None = None
        self.started_at: dt.datetime | None = None
        self.duration_s: float | None = None
        self.metrics: dict[str, float] = {}

    def elapsed(self, now: dt.datetime) -> float | None:
        """Give the seconds since its start, or what it took."""
        if self.duration_s is not None or self.started_at is None:
            return self.duration_s
        return max(0.0, (now - self.started_at).total_seconds())


class Board:
    """All that is known of a run from what was seen so far."""

    def __init__(self) -> None:
        self.title = ""
        self.rows: dict[str, Row] = {}
        self.end: events.Event | None = None

    def take(self, event: events.Event) -> None:
        """Fold an event in."""
        if isinstance(event, events.RunAccepted):
            self.title = f"{event.pipeline.name}  {event.run_id}"
            self.rows = {s.id: Row(s.id, s.use) for s in event.pipeline.stages}
        elif isinstance(event, ENDS):
            self.end = event
        elif isinstance(event, events.RunResumed):
            self.end = None
            self.rows |= {s: Row(s, self.rows[s].use) for s in event.again if s in self.rows}
        elif isinstance(event, events.StageEvent) and event.stage in self.rows:
            _show(self.rows[event.stage], event)

    def hear(self, progress: events.Progress) -> None:
        """Take a sign of life of a running stage."""
        row = self.rows.get(progress.stage)
        if row is not None and row.state in ("running", "pending"):
            row.fraction = progress.fraction
            row.note = progress.message or row.note
            row.metrics = progress.metrics or row.metrics

    def render(self, now: dt.datetime) -> Any:
        """Draw it as a rich table."""
        from rich import table, text

        title = console.escape(self.title)
        drawn = table.Table(box=None, pad_edge=False, title=title, title_justify="left")
        for heading in ("", "stage", "kind", "time", "what"):
            drawn.add_column(heading, no_wrap=heading != "what")
        for row in self.rows.values():
            style = console.STATES.get(row.state, "dim")
            mark = text.Text(MARKS.get(row.state, "?"), style=style)
            took = console.seconds(row.elapsed(now))
            told = console.plain(_what(row))
            what = text.Text(told, style="dim" if row.state == "pending" else "")
            stage = text.Text(console.plain(row.stage), style=style)
            drawn.add_row(mark, stage, console.escape(row.use), took, what)
        return drawn


def line(event: events.Event) -> str:
    """Tell an event on one plain line."""
    name = type(event).__struct_config__.tag
    at = event.at.astimezone().strftime("%H:%M:%S")
    scope = event.scope
    element = getattr(event, "element", None)
    place = scope if element is None else f"{scope}[{element}]"
    told = f"{at}  {place:<18} {str(name).split('.')[-1]:<20} {_details(event)}"
    return console.plain(told.rstrip())


def _show(row: Row, event: events.StageEvent) -> None:
    one = event.element is not None
    match event:
        case events.StageStarted():
            row.state, row.note = "running", ""
            row.started_at, row.duration_s = row.started_at or event.at, None
        case events.StageSucceeded() if not one:
            row.state, row.duration_s = "succeeded", event.duration_s
            row.metrics, row.fraction = event.metrics, None
            row.note = "cached" if event.cached else ""
        case events.StageFailed() if not one:
            row.state, row.note = "failed", _problem(event.problem)
        case events.StageRetrying():
            row.state, row.note = "retrying", _problem(event.problem)
        case events.StageSkipped():
            row.state, row.note = "skipped", event.reason
        case events.StageCancelled() if not one:
            row.state = "cancelled"
        case events.ApprovalRequested():
            row.state, row.note = "waiting", event.prompt or "waits for approval"
        case _:
            row.note = _details(event) or row.note


def _what(row: Row) -> str:
    parts = [row.note, console.metrics(row.metrics)]
    if row.fraction is not None and row.state == "running":
        full = round(min(1.0, max(0.0, row.fraction)) * BAR)
        parts.insert(0, "█" * full + "░" * (BAR - full) + f" {row.fraction:4.0%}")
    return "  ".join(part for part in parts if part)


def _details(event: events.Event) -> str:
    return DETAILS.get(type(event), _nothing)(event)


def _nothing(_: Any) -> str:
    return ""


def _accepted(event: events.RunAccepted) -> str:
    return f"{event.pipeline.name}, {len(event.pipeline.stages)} stages"


def _started(event: events.StageStarted) -> str:
    return f"attempt {event.attempt}" if event.attempt > 1 else ""


def _succeeded(event: events.StageSucceeded) -> str:
    took = "cached" if event.cached else console.seconds(event.duration_s)
    return f"{took}  {console.metrics(event.metrics)}"


def _went_wrong(event: events.StageFailed | events.StageRetrying | events.RunFailed) -> str:
    return _problem(event.problem)


def _registered(event: events.StageRegistered) -> str:
    return f"{event.model} version {event.version} {' '.join(event.aliases)}"


def _shifted(event: events.StageShifted) -> str:
    return f"{event.model} version {event.version} has {event.percent:g} %  {event.reason}".rstrip()


def _answered(event: events.StageApproved | events.StageDenied) -> str:
    return f"by {event.by} {event.comment}"


def _took(event: events.RunSucceeded | events.RunCancelled) -> str:
    return console.seconds(event.duration_s)


DETAILS: dict[type[events.Event], Callable[[Any], str]] = {
    events.RunAccepted: _accepted,
    events.RunSucceeded: _took,
    events.RunCancelled: _took,
    events.RunFailed: _went_wrong,
    events.StageStarted: _started,
    events.StageSucceeded: _succeeded,
    events.StageFailed: _went_wrong,
    events.StageRetrying: _went_wrong,
    events.StageDelegated: lambda event: f"to {event.specialist}",
    events.StageRegistered: _registered,
    events.StageShifted: _shifted,
    events.StageDeployed: lambda event: f"{event.model} version {event.version} at {event.url}",
    events.StageSkipped: lambda event: event.reason,
    events.StageApproved: _answered,
    events.StageDenied: _answered,
}


def _problem(problem: Any) -> str:
    return f"{problem.code}: {problem.message}"
