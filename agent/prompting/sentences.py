"""Owns how events, results and problems are told in plain words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from protocol import commands, events, problems

MOST_STAGES = 100
"""How many stages of a run are told; the attached document has them all."""


def of_event(event: events.AnyEvent) -> str | None:
    """Tell an event, unless it is about one element of very many that does well."""
    if getattr(event, "element", None) is not None and not isinstance(event, _TROUBLE):
        return None
    return _SENTENCES[type(event)](event)


def of_problem(problem: problems.Problem) -> str:
    """Tell a problem on one line: its code, its place, how to mend it."""
    where = f" at {problem.path}" if problem.path else ""
    hint = f" (hint: {problem.hint})" if problem.hint else ""
    return f"{problem.code}{where}: {problem.message}{hint}"


def all_of(problem: problems.Problem) -> str:
    """Tell a problem and all that come with it, one on a line."""
    return "\n".join(of_problem(one) for one in problem.problems or [problem])


def of_status(found: commands.RunStatus) -> str:
    """Tell where a run and its stages stand."""
    accepted = f"accepted {_moment(found.accepted_at)} from {found.requester}"
    lines = [f"{found.pipeline} {found.run_id} {found.state}, {accepted}"]
    lines += [_stage(stage) for stage in found.stages[:MOST_STAGES]]
    if len(found.stages) > MOST_STAGES:
        lines.append(f"… and {len(found.stages) - MOST_STAGES} more stages")
    if found.problem is not None:
        lines.append(of_problem(found.problem))
    return "\n".join(lines)


def of_runs(found: commands.RunList) -> str:
    """Tell a list of runs."""
    lines = [
        f"{run.run_id} {run.pipeline} {run.state}, {run.stages_done}/{run.stages} stages, "
        f"accepted {_moment(run.accepted_at)} from {run.requester}"
        for run in found.runs
    ]
    return "\n".join(lines) or "there are no runs"


def of_catalog(found: commands.StageCatalog) -> str:
    """Tell what pipelines can be made of."""
    lines = [
        f"{card.name} ({_ports(card.inputs)} → {_ports(card.outputs)}): {card.summary}"
        for card in found.stages
    ]
    lines += [f"template {card.name}: {card.summary}" for card in found.templates]
    return "\n".join(lines) or "there is nothing of that name"


def _ports(ports: list[commands.Port]) -> str:
    return ", ".join(port.name for port in ports) or "nothing"


def _stage(stage: commands.StageStatus) -> str:
    told = [f"- {stage.id} ({stage.use}) {stage.state}"]
    told += ["cached"] if stage.cached else []
    if stage.elements is not None:
        told.append(f"{stage.elements_done or 0}/{stage.elements} elements")
    told += [_seconds(stage.duration_s)] if stage.duration_s is not None else []
    told += [_metrics(stage.metrics)] if stage.metrics else []
    told += [of_problem(stage.problem)] if stage.problem is not None else []
    told += [stage.reason] if stage.reason else []
    return ", ".join(told)


def _moment(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _seconds(value: float) -> str:
    return f"{value:.1f} s"


def _metrics(values: dict[str, float], most: int = 3) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in list(values.items())[:most])


def _name(event: events.StageEvent) -> str:
    element = "" if event.element is None else f"[{event.element}]"
    return f"stage {event.stage}{element}"


def _after(text: str) -> str:
    return f": {text}" if text else ""


def _began(event: events.StageStarted) -> str:
    again = f", attempt {event.attempt}" if event.attempt > 1 else ""
    wide = f", {event.elements} elements" if event.elements is not None else ""
    return f"{_name(event)} began{again}{wide}"


def _succeeded(event: events.StageSucceeded) -> str:
    how = "came from the cache" if event.cached else f"succeeded after {_seconds(event.duration_s)}"
    lost = f", {len(event.quarantined)} elements failed" if event.quarantined else ""
    return f"{_name(event)} {how}{lost}{_after(_metrics(event.metrics))}"


def _resumed(event: events.RunResumed) -> str:
    again = ", ".join(event.again[:MOST_STAGES])
    return f"{event.by} resumed the run; what runs again: {again or 'nothing'}"


_TROUBLE = events.StageFailed | events.StageRetrying
_SENTENCES: dict[type[events.Event], Callable[[Any], str]] = {
    events.RunAccepted: lambda e: (
        f"run {e.run_id} is accepted: {e.pipeline.name}, {len(e.pipeline.stages)} stages"
    ),
    events.RunStarted: lambda e: f"agent {e.owner} took the run",
    events.RunRecovered: lambda e: f"agent {e.owner} took the run over",
    events.RunSucceeded: lambda e: f"the run succeeded after {_seconds(e.duration_s)}",
    events.RunFailed: lambda e: (
        f"the run failed after {_seconds(e.duration_s)}: {of_problem(e.problem)}"
    ),
    events.CancelRequested: lambda e: f"{e.by} asked for the run to stop{_after(e.reason)}",
    events.RunCancelled: lambda e: (
        f"the run is cancelled by {e.by}{_after(e.reason)}; nothing of it runs any more"
    ),
    events.RunResumed: _resumed,
    events.StageStarted: _began,
    events.StageSucceeded: _succeeded,
    events.StageFailed: lambda e: f"{_name(e)} failed: {of_problem(e.problem)}",
    events.StageRetrying: lambda e: f"{_name(e)} is tried again: {of_problem(e.problem)}",
    events.StageSkipped: lambda e: f"{_name(e)} is skipped: {e.reason}",
    events.StageCancelled: lambda e: f"{_name(e)} is cancelled",
    events.StageDelegated: lambda e: f"{_name(e)} is trained by {e.specialist}",
    events.ApprovalRequested: lambda e: f"{_name(e)} waits for approval{_after(e.prompt)}",
    events.StageApproved: lambda e: f"{e.by} approved {_name(e)}{_after(e.comment)}",
    events.StageDenied: lambda e: f"{e.by} denied {_name(e)}{_after(e.comment)}",
    events.FallbackUsed: lambda e: f"{e.fallback} stands in for {_name(e)}",
    events.StageShifted: lambda e: (
        f"{_name(e)}: version {e.version} of {e.model} has {e.percent:g} % of the requests"
        f"{_after(e.reason)}"
    ),
    events.StageDeployed: lambda e: f"{_name(e)} deployed {e.model} version {e.version}: {e.url}",
    events.StageRegistered: lambda e: f"{_name(e)} registered {e.model} version {e.version}",
}
