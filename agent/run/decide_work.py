"""Owns what follows when an attempt ends, is stopped, or tells a fact."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from agent.run import blame, effects, moment, retry, state, stimuli, times, units
from protocol import events, problems

Decision = tuple[list[events.AnyEvent], list[effects.Effect]]

_EARLY = dt.timedelta(milliseconds=50)
"""A timer may come this much before its time."""
_FACTS: dict[str, type[events.StageEvent]] = {
    "delegated": events.StageDelegated,
    "registered": events.StageRegistered,
    "shifted": events.StageShifted,
    "deployed": events.StageDeployed,
    "fallback_used": events.FallbackUsed,
}


def began(run: state.RunState, told: stimuli.WorkBegan, at: moment.Moment) -> Decision:
    """Let the attempt's time limit count from now: waiting for a place is not its fault."""
    unit = run.at_work(told.key)
    timeout = None if unit is None else run.spec(unit).timeout_s
    if timeout is None:
        return [], []
    name = times.timer("timeout", told.key)
    return [], [effects.SetTimer(name, times.after(at.now, timeout))]


def succeeded(run: state.RunState, told: stimuli.WorkSucceeded, at: moment.Moment) -> Decision:
    """Take the result, also while the run is being stopped: finished work is kept."""
    unit = run.at_work(told.key)
    if unit is None:
        return [], []
    event = events.StageSucceeded(
        at=at.now,
        cause=at.cause,
        stage=told.key.stage,
        element=told.key.element,
        attempt=told.key.attempt,
        outputs=dict(told.outputs),
        metrics=told.metrics,
        duration_s=told.duration_s,
        usage=told.usage,
        cached=told.cached,
        cache_key=told.cache_key,
        code_version=told.code_version,
    )
    return [event], []


def failed(run: state.RunState, told: stimuli.WorkFailed, at: moment.Moment) -> Decision:
    """Try again or give up; an attempt that was told to stop and says so was stopped."""
    unit = run.at_work(told.key)
    if unit is None:
        return [], []
    if told.problem.code == "cancelled":
        if run.run == "cancelling" or run.overdue(at.now):
            return [_cancelled(unit, told.key, at, "asked", "")], []
        if _timed_out(run, unit, at.now):
            return [_after_failure(run, unit, _timeout(run, unit), told.log, at)], []
    problem = blame.named(run, unit, told.problem)
    return [_after_failure(run, unit, problem, told.log, at)], []


def stopped(run: state.RunState, told: stimuli.WorkStopped, at: moment.Moment) -> Decision:
    """Take the proof; outside a cancellation, a stop is a timeout or the loss of a place."""
    unit = run.at_work(told.key)
    if unit is None:
        return [], []
    if run.run == "cancelling" or run.overdue(at.now):
        return [_cancelled(unit, told.key, at, told.how, told.where)], []
    if _timed_out(run, unit, at.now):
        problem = _timeout(run, unit)
    else:
        message = f"the attempt was stopped from outside ({told.how} {told.where})"
        problem = problems.Problem(code="preempted", message=message, retryable=True)
    return [_after_failure(run, unit, problem, "", at)], []


def noted(run: state.RunState, told: stimuli.WorkNoted, at: moment.Moment) -> Decision:
    """Journal a fact that a stage tells; one that makes no sense becomes a warning."""
    if run.at_work(told.key) is None:
        return [], []
    kind = _FACTS.get(told.fact)
    known = {} if kind is None else _known(kind, told.details)
    place: dict[str, Any] = {"at": at.now, "cause": at.cause, "stage": told.key.stage}
    try:
        if kind is not None:
            return [msgspec.convert({**known, **place, "element": told.key.element}, kind)], []  # type: ignore[list-item]
    except msgspec.ValidationError as error:
        message = f"stage {told.key.stage!r} told a malformed {told.fact!r}: {error}"
        return [], [effects.Warn("warning", message, told.key.stage)]
    message = f"stage {told.key.stage!r} told an unknown fact {told.fact!r}"
    return [], [effects.Warn("warning", message, told.key.stage)]


def _known(kind: type[events.StageEvent], details: dict[str, Any]) -> dict[str, Any]:
    built = msgspec.to_builtins(details)
    return {"type": kind.__struct_config__.tag, **{k: v for k, v in built.items() if k != "type"}}


def _after_failure(
    run: state.RunState,
    unit: units.Unit,
    problem: problems.Problem,
    log: str,
    at: moment.Moment,
) -> events.AnyEvent:
    wanted = not run.stopping(at.now) and run.stages[unit.stage].state == "running"
    again = retry.consider(run, unit, problem) if wanted else None
    stage = run.spec(unit).id
    if again is None:
        return events.StageFailed(
            at=at.now,
            cause=at.cause,
            stage=stage,
            element=unit.element,
            attempt=unit.attempt,
            problem=problem,
            log=log,
        )
    return events.StageRetrying(
        at=at.now,
        cause=at.cause,
        stage=stage,
        element=unit.element,
        attempt=unit.attempt,
        problem=problem,
        log=log,
        next_at=times.after(at.now, again.wait_s),
        memory_bytes=again.memory_bytes,
    )


def _cancelled(
    unit: units.Unit, key: effects.WorkKey, at: moment.Moment, how: str, where: str
) -> events.StageCancelled:
    return events.StageCancelled(
        at=at.now,
        cause=at.cause,
        stage=key.stage,
        element=key.element,
        attempt=unit.attempt,
        how=how,
        where=where,
    )


def _timed_out(run: state.RunState, unit: units.Unit, now: dt.datetime) -> bool:
    timeout = run.spec(unit).timeout_s
    began = unit.attempt_at
    if timeout is None or began is None:
        return False
    return now + _EARLY >= times.after(began, timeout)


def _timeout(run: state.RunState, unit: units.Unit) -> problems.Problem:
    stage = run.spec(unit)
    message = f"stage {stage.id!r} timed out after {stage.timeout_s:g} s"
    return problems.Problem(code="timeout", message=message, retryable=True)
