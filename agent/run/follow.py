"""Owns which effects follow from an event that has just been folded in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.run import effects, launch, state, times, units
from protocol import events


def follow(run: state.RunState, event: events.AnyEvent) -> list[effects.Effect]:
    """List what is to be done now that this is a fact."""
    handler = _HANDLERS.get(type(event))
    return handler(run, event) if handler else []


def stop_all(
    run: state.RunState, *, force: bool, reason: effects.StopReason
) -> list[effects.Effect]:
    """Stop everything that is at work."""
    return [effects.Stop(run.key(unit), force=force, reason=reason) for unit in run.running]


def _unit(run: state.RunState, event: events.StageEvent) -> units.Unit:
    found = run.unit(event.stage, event.element)
    assert found is not None
    return found


def _taken(
    run: state.RunState, _event: events.RunStarted | events.RunRecovered
) -> list[effects.Effect]:
    """Set the timers again that died with the agent that set them."""
    found: list[effects.Effect] = []
    if run.deadline is not None:
        found.append(effects.SetTimer(times.DEADLINE, run.deadline))
    for index in run.waiting:
        expires = run.stages[index].expires_at
        if expires is not None:
            found.append(effects.SetTimer(times.approval(run.plan.stages[index].id), expires))
    return found


def _started(run: state.RunState, event: events.StageStarted) -> list[effects.Effect]:
    if event.elements is not None:
        return []
    return [launch.launch(run, _unit(run, event), adopted=event.adopted)]


def _attempt_over(run: state.RunState, unit: units.Unit) -> list[effects.Effect]:
    if run.spec(unit).timeout_s is None:
        return []
    key = run.key(unit)
    return [effects.ClearTimer(times.timer(kind, key)) for kind in ("timeout", "force")]


def _succeeded(run: state.RunState, event: events.StageSucceeded) -> list[effects.Effect]:
    found = _attempt_over(run, _unit(run, event))
    if event.quarantined:
        message = f"{len(event.quarantined)} elements of {event.stage!r} failed and are quarantined"
        found.append(effects.Warn("warning", message, event.stage))
    return found


def _failed(run: state.RunState, event: events.StageFailed) -> list[effects.Effect]:
    return _attempt_over(run, _unit(run, event))


def _retrying(run: state.RunState, event: events.StageRetrying) -> list[effects.Effect]:
    unit = _unit(run, event)
    name = times.timer("retry", run.key(unit))
    return [*_attempt_over(run, unit), effects.SetTimer(name, event.next_at)]


def _cancelled(run: state.RunState, event: events.StageCancelled) -> list[effects.Effect]:
    unit = _unit(run, event)
    found = _attempt_over(run, unit)
    elsewhere = run.plan.kinds[unit.stage].delegated or run.spec(unit).placement == "swarm"
    if event.how == "not_started" and elsewhere:
        # The agent that asked is gone, but whoever it asked may still be at it.
        found.append(effects.Recall(launch.launch(run, unit).work))
    if unit.next_at is not None:
        found.append(effects.ClearTimer(times.timer("retry", run.key(unit))))
    return found


def _approval_requested(
    _run: state.RunState, event: events.ApprovalRequested
) -> list[effects.Effect]:
    if event.expires_at is None:
        return []
    return [effects.SetTimer(times.approval(event.stage), event.expires_at)]


def _answered(
    run: state.RunState, event: events.StageApproved | events.StageDenied
) -> list[effects.Effect]:
    gate = run.spec(_unit(run, event)).approval
    timed = gate is not None and gate.timeout_s is not None
    return [effects.ClearTimer(times.approval(event.stage))] if timed else []


def _fallback_used(_run: state.RunState, event: events.FallbackUsed) -> list[effects.Effect]:
    message = f"{event.fallback!r} stands in for {event.stage!r}: {event.problem.message}"
    return [effects.Warn("warning", message, event.stage)]


def _cancel_requested(run: state.RunState, event: events.CancelRequested) -> list[effects.Effect]:
    if not run.running:
        return []
    at = times.after(event.at, event.grace_s)
    stops = stop_all(run, force=False, reason="cancelled")
    return [*stops, effects.SetTimer(times.CANCEL, at)]


def _ended(
    run: state.RunState, event: events.RunSucceeded | events.RunFailed | events.RunCancelled
) -> list[effects.Effect]:
    found: list[effects.Effect] = []
    if run.deadline is not None:
        names = (times.DEADLINE, times.DEADLINE_FORCE)
        found += [effects.ClearTimer(name) for name in names]
    if isinstance(event, events.RunCancelled):
        found.append(effects.ClearTimer(times.CANCEL))
        return [*found, effects.End("cancelled")]
    if isinstance(event, events.RunFailed):
        found.append(effects.Warn("critical", f"the run failed: {event.problem.message}"))
        return [*found, effects.End("failed")]
    return [*found, effects.End("succeeded")]


_HANDLERS: dict[type[events.Event], Callable[[state.RunState, Any], list[effects.Effect]]] = {
    events.RunStarted: _taken,
    events.RunRecovered: _taken,
    events.RunSucceeded: _ended,
    events.RunFailed: _ended,
    events.RunCancelled: _ended,
    events.CancelRequested: _cancel_requested,
    events.StageStarted: _started,
    events.StageSucceeded: _succeeded,
    events.StageFailed: _failed,
    events.StageRetrying: _retrying,
    events.StageCancelled: _cancelled,
    events.ApprovalRequested: _approval_requested,
    events.StageApproved: _answered,
    events.StageDenied: _answered,
    events.FallbackUsed: _fallback_used,
}
