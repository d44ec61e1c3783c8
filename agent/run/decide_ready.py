"""Owns what happens to a stage whose turn has come: it starts, waits or is skipped."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

from agent.run import launch, moment, shapes, state, times, units
from protocol import events, problems

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}


def begin(run: state.RunState, unit: units.Unit, at: moment.Moment) -> events.AnyEvent | None:
    """Say what becomes of a unit from the queue; None if its turn has passed."""
    if unit.state not in ("pending", "retrying"):
        return None
    if unit.element is not None:
        return _start(run, unit, at) if run.stages[unit.stage].state == "running" else None
    stage = run.stages[unit.stage]
    if stage.attempt and (stage.state == "retrying" or stage in run.lost):
        return _start(run, stage, at)
    return _gate(run, stage, at)


def _gate(run: state.RunState, stage: units.StageRun, at: moment.Moment) -> events.AnyEvent:
    name = run.spec(stage).id
    if stage.denied is not None:
        by, comment = stage.denied
        message = f"{by} denied the stage" + (f": {comment}" if comment else "")
        return _refuse(stage, name, problems.Problem(code="denied", message=message), at)
    reason = _why_not(run, stage.stage)
    if reason is not None:
        return events.StageSkipped(at=at.now, cause=at.cause, stage=name, reason=reason)
    approval = run.spec(stage).approval
    if approval is not None and not stage.approved:
        limit = approval.timeout_s
        return events.ApprovalRequested(
            at=at.now,
            cause=at.cause,
            stage=name,
            prompt=approval.prompt,
            expires_at=None if limit is None else times.after(at.now, limit),
        )
    return _fan(run, stage, at) if run.spec(stage).for_each else _start(run, stage, at)


def _refuse(
    stage: units.StageRun, name: str, problem: problems.Problem, at: moment.Moment
) -> events.StageFailed:
    return events.StageFailed(
        at=at.now, cause=at.cause, stage=name, attempt=stage.attempt, problem=problem
    )


def _start(run: state.RunState, unit: units.Unit, at: moment.Moment) -> events.StageStarted:
    spec = run.spec(unit)
    return events.StageStarted(
        at=at.now,
        cause=at.cause,
        stage=spec.id,
        element=unit.element,
        attempt=unit.attempt + 1,
        memory_bytes=unit.memory or spec.resources.memory_bytes,
    )


def _fan(run: state.RunState, stage: units.StageRun, at: moment.Moment) -> events.AnyEvent:
    spec = run.spec(stage)
    width = launch.width(run, stage.stage)
    if width is None:
        message = f"the list {spec.for_each and spec.for_each.items!r} does not say how long it is"
        problem = problems.Problem(code="data_fault", message=message)
        return _refuse(stage, spec.id, problem, at)
    if (too_wide := _too_wide(run, width)) is not None:
        return _refuse(stage, spec.id, too_wide, at)
    return events.StageStarted(
        at=at.now, cause=at.cause, stage=spec.id, attempt=stage.attempt + 1, elements=width
    )


def _too_wide(run: state.RunState, width: int) -> problems.Problem | None:
    own, most = run.accepted.bounds.max_fan_out, run.plan.max_fan_out
    limit = most if own is None else min(own, most)
    if width <= limit:
        return None
    name = "runs.max_fan_out" if limit == most else "limits: max_fan_out of the requester"
    message = f"{width} elements are more than the {limit} that are allowed"
    hint = f"the agent's setting {name} is {limit}"
    return problems.Problem("fan_out_too_large", message, hint=hint)


def _why_not(run: state.RunState, index: int) -> str | None:
    """Give the reason to skip a stage, if there is one."""
    if run.plan.users[index] and not run.activated[index]:
        names = ", ".join(repr(run.plan.stages[user].id) for user in run.plan.users[index])
        return f"not needed as a fallback for {names}"
    return next(_missing(run, index), None) or next(_unmet(run, index), None)


def _missing(run: state.RunState, index: int) -> Iterator[str]:
    wired = run.plan.bindings[index]
    items = run.plan.items[index]
    for binding in [*wired, *([items] if items else [])]:
        lacks = _lacks(run, binding)
        if lacks is not None and not binding.optional:
            yield f"its input {binding.port!r} comes from {lacks}"
    for need in run.plan.stages[index].needs:
        if run.stand_in(run.plan.ids[need]).state != "succeeded":
            yield f"it needs {_ended(run, run.plan.ids[need])}"


def _lacks(run: state.RunState, binding: shapes.Binding) -> str | None:
    source = run.stand_in(binding.source)
    if source.state != "succeeded":
        return _ended(run, binding.source)
    if binding.source_port not in source.outputs:
        name = run.plan.stages[source.stage].id
        return f"stage {name!r}, which gave no {binding.source_port!r}"
    return None


def _ended(run: state.RunState, index: int) -> str:
    state_ = run.stages[index].state
    verb = "was skipped" if state_ == "skipped" else state_
    return f"stage {run.plan.stages[index].id!r}, which {verb}"


def _unmet(run: state.RunState, index: int) -> Iterator[str]:
    for bound in run.plan.conditions[index]:
        name = f"{run.plan.stages[bound.source].id}.{bound.metric}"
        source = run.stand_in(bound.source)
        value = source.metrics.get(bound.metric) if source.state == "succeeded" else None
        if value is None:
            yield f"the metric {name} of its condition is missing"
        elif not _COMPARE[bound.op](value, bound.value):
            yield f"{name} is {value:g}, not {bound.op} {bound.value:g}"
