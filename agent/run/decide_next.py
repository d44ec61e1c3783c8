"""Owns what happens by itself once an event is folded in: closing, starting, ending."""

from __future__ import annotations

import heapq
import statistics

import msgspec

from agent.run import decide_ready, effects, evolve, moment, state, units
from protocol import artifacts, commands, events, pipelines, problems

WIDE = 1000
"""A fan of more elements does not repeat their outputs in its own event: the fold has them."""
_WIDE_COLUMNS = 5000
"""Of all the tables that a fan gives; with more, its outputs are not repeated either."""
_LISTED = 10
_SHORT = 200
"""Characters of a message that is told in full elsewhere."""


def advance(
    run: state.RunState, at: moment.Moment, window: int | None = None
) -> list[events.AnyEvent]:
    """Give the next events that need no stimulus; none means that the run is quiet."""
    while run.due:
        event = _say(run, run.stages[run.due.popleft()], at)
        if event is not None:
            return [event]
    if run.over:
        return []
    if run.stopping(at.now) and (run.open or run.problem or run.cancel or run.cut):
        return [] if run.running else _finish(run, at)
    _wake(run, at)
    event = _next(run, at, window)
    if event is not None:
        return [event]
    if not run.open and not run.running:
        return [events.RunSucceeded(at=at.now, cause=at.cause, duration_s=_duration(run, at))]
    return []


def park(run: state.RunState, at: moment.Moment) -> effects.Park | None:
    """Tell whether only people can bring the run on."""
    if not run.parked or run.stopping(at.now):
        return None
    dates = [run.stages[index].expires_at for index in run.waiting]
    ends = [date for date in [*dates, run.deadline] if date is not None]
    return effects.Park(min(ends, default=None))


def _wake(run: state.RunState, at: moment.Moment) -> None:
    """Queue what has waited long enough for its next attempt."""
    while run.wake and run.wake[0][0] <= at.now:
        next_at, stage, element = heapq.heappop(run.wake)
        unit = run.at(stage, element)
        if unit is not None and unit in run.retrying and unit.next_at == next_at:
            run.push(unit)


def _next(run: state.RunState, at: moment.Moment, window: int | None) -> events.AnyEvent | None:
    while run.ready and _room(run, window):
        _, element, stage = heapq.heappop(run.ready)
        run.steps += 1
        unit = run.at(stage, element)
        if unit is None or not unit.queued:
            continue
        unit.queued = False
        event = decide_ready.begin(run, unit, at)
        if event is not None:
            return event
        run.retrying.pop(unit, None)
    return None


def _room(run: state.RunState, window: int | None) -> bool:
    """Tell whether the first that is queued may start; elements leave room for whole stages."""
    limit = run.accepted.options.max_parallel
    if limit is not None and len(run.running) >= limit:
        return False
    _, element, _ = run.ready[0]
    return element < 0 or window is None or len(run.running) < window


def _say(run: state.RunState, stage: units.StageRun, at: moment.Moment) -> events.AnyEvent | None:
    """Close a fan, or let a fallback stand in."""
    if stage.state == "failed":
        return _fallback(run, stage, at)
    return _close(run, stage, at) if stage.state == "running" else None


def _fallback(
    run: state.RunState, stage: units.StageRun, at: moment.Moment
) -> events.FallbackUsed | None:
    policy = run.spec(stage).on_failure
    usable = isinstance(policy, pipelines.Fallback) and not stage.stood_in
    if not usable or not isinstance(policy, pipelines.Fallback) or run.over:
        return None
    if run.stopping(at.now) or stage.problem is None:
        return None
    return events.FallbackUsed(
        at=at.now,
        cause=at.cause,
        stage=run.spec(stage).id,
        fallback=policy.fallback,
        problem=stage.problem,
    )


def _close(run: state.RunState, fan: units.StageRun, at: moment.Moment) -> events.AnyEvent | None:
    elements = fan.units or []
    each = run.spec(fan).for_each
    needed = fan.quorum(each.min_success if each else 1.0)
    name = run.spec(fan).id
    if needed > len(elements) - fan.failed:
        problem = _quorum_lost(fan, needed)
        return events.StageFailed(
            at=at.now, cause=at.cause, stage=name, attempt=fan.attempt, problem=problem
        )
    if fan.done < len(elements):
        return None
    began = fan.attempt_at or at.now
    return events.StageSucceeded(
        at=at.now,
        cause=at.cause,
        stage=name,
        attempt=fan.attempt,
        outputs=_repeated(evolve.fan_outputs(run, fan)) if len(elements) <= WIDE else {},
        metrics=_means(elements),
        duration_s=(at.now - began).total_seconds(),
        cached=bool(elements) and all(unit.cached for unit in elements),
        quarantined=[_short(one) for one in evolve.fan_failures(fan)[:WIDE]],
    )


def _repeated(outputs: dict[str, list[artifacts.ArtifactRef]]) -> dict[str, artifacts.Output]:
    """Give the outputs of a fan for its own event, which must fit the journal in one piece."""
    found = [ref for refs in outputs.values() for ref in refs]
    columns = sum(len(ref.schema or ()) for ref in found)
    return dict(outputs) if len(found) <= WIDE and columns <= _WIDE_COLUMNS else {}


def _short(failure: commands.ElementFailure) -> commands.ElementFailure:
    """Shorten what the element's own event tells in full."""
    return msgspec.structs.replace(failure, message=failure.message[:_SHORT])


def _means(elements: list[units.Unit]) -> dict[str, float]:
    """Average each metric over the elements that succeeded and have it."""
    values: dict[str, list[float]] = {}
    for unit in elements:
        if unit.state == "succeeded":
            for name, value in unit.metrics.items():
                values.setdefault(name, []).append(value)
    return {name: statistics.fmean(found) for name, found in values.items()}


def _quorum_lost(fan: units.StageRun, needed: int) -> problems.Problem:
    found = [unit.problem for unit in fan.units or () if unit.state == "failed" and unit.problem]
    message = (
        f"{fan.failed} of {len(fan.units or ())} elements failed and {needed} must succeed; "
        f"the first: {found[0].message}"
    )
    return problems.Problem(code=found[0].code, message=message, problems=found[:_LISTED])


def _duration(run: state.RunState, at: moment.Moment) -> float:
    return (at.now - (run.started_at or run.accepted.at)).total_seconds()


def _finish(run: state.RunState, at: moment.Moment) -> list[events.AnyEvent]:
    """Cancel what has not ended, then end the run: cancelled with a receipt, or failed."""
    left = _unended(run, at)
    if left:
        return left
    took = _duration(run, at)
    if run.cancel is not None:
        return [
            events.RunCancelled(
                at=at.now,
                cause=at.cause,
                stopped=_receipt(run.stopped),
                by=run.cancel.by,
                reason=run.cancel.reason,
                duration_s=took,
            )
        ]
    late = f"the run did not end within {run.accepted.options.deadline_s} s"
    problem = run.problem or problems.Problem(code="deadline_exceeded", message=late)
    return [events.RunFailed(at=at.now, cause=at.cause, duration_s=took, problem=problem)]


def _receipt(stopped: list[events.Stopped]) -> list[events.Stopped]:
    """List what was stopped; of a wide fan, what had not begun is one line."""
    if len(stopped) <= WIDE:
        return list(stopped)
    idle: dict[str, list[events.Stopped]] = {}
    for one in stopped:
        if one.how == "not_started" and one.element is not None:
            idle.setdefault(one.stage, []).append(one)
    kept = [one for one in stopped if one.how != "not_started" or one.element is None]
    return kept + [_together(elements) for elements in idle.values()]


def _together(elements: list[events.Stopped]) -> events.Stopped:
    return msgspec.structs.replace(
        elements[-1], element=None, attempt=0, where=f"{len(elements)} elements"
    )


def _unended(run: state.RunState, at: moment.Moment) -> list[events.AnyEvent]:
    """What was at work when its agent was lost is proof too: it died with it."""
    found: list[events.AnyEvent] = [
        events.StageCancelled(
            at=at.now,
            cause=at.cause,
            stage=run.spec(unit).id,
            element=unit.element,
            attempt=unit.attempt,
            how="not_started",
            where="lost with its agent",
        )
        for unit in run.lost
    ]
    if run.open:
        found += [
            events.StageCancelled(
                at=at.now, cause=at.cause, stage=run.spec(stage).id, attempt=stage.attempt
            )
            for stage in run.unended()
            if stage not in run.lost
        ]
    return found
