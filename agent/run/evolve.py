"""Owns how each event changes the state of a run."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from agent.run import resume, state, units
from protocol import commands, events, pipelines


def evolve(run: state.RunState, event: events.AnyEvent) -> state.RunState:
    """Fold one event in: the state handed in is changed and returned."""
    run.steps += 1
    _HANDLERS[type(event)](run, event)
    run.story.append(_line(event))
    return run


def _line(event: events.Event) -> str:
    element = getattr(event, "element", None)
    place = event.scope if element is None else f"{event.scope}[{element}]"
    return f"{type(event).__name__} {place}"


def _unit(run: state.RunState, event: events.StageEvent) -> units.Unit:
    found = run.unit(event.stage, event.element)
    if found is None:
        raise run.illegal(event.stage, "absent", event)
    return found


def _accepted(run: state.RunState, event: events.RunAccepted) -> None:
    """The state began with it."""


def _taken(run: state.RunState, event: events.RunStarted | events.RunRecovered) -> None:
    run.move_run(event)
    run.owner, run.epoch = event.owner, event.epoch
    run.started_at = run.started_at or event.at
    if isinstance(event, events.RunRecovered):
        run.problem = run.problem or event.problem
    run.lost.update(run.running)
    for unit in [*run.running, *run.retrying]:
        run.move(unit, event)
        run.push(unit)
    run.running.clear()
    run.retrying.clear()
    run.wake.clear()


def _ended(
    run: state.RunState, event: events.RunSucceeded | events.RunFailed | events.RunCancelled
) -> None:
    run.move_run(event)
    run.ended_at = event.at
    if isinstance(event, events.RunFailed):
        run.problem = event.problem


def _cancel_requested(run: state.RunState, event: events.CancelRequested) -> None:
    run.move_run(event)
    run.cancel = event


def _resumed(run: state.RunState, event: events.RunResumed) -> None:
    run.move_run(event)
    resume.reset(run, event)


def _started(run: state.RunState, event: events.StageStarted) -> None:
    unit = _unit(run, event)
    run.move(unit, event)
    unit.attempt = event.attempt
    unit.attempt_at = event.at
    unit.started_at = unit.started_at or event.at
    unit.ended_at = None
    unit.memory = event.memory_bytes
    unit.queued = False
    if event.elements is not None and isinstance(unit, units.StageRun):
        unit.open_fan(event.elements)
        _fill(run, unit)
        _check_fan(run, unit)
        return
    run.running[unit] = None
    run.retrying.pop(unit, None)
    run.lost.pop(unit, None)


def _fill(run: state.RunState, fan: units.StageRun) -> None:
    """Queue elements up to the fan's own limit."""
    each = run.spec(fan).for_each
    elements = fan.units or []
    wide = len(elements)
    limit = (each.max_parallel if each else None) or wide
    while fan.next_element < wide and fan.in_hand < limit:
        unit = elements[fan.next_element]
        fan.next_element += 1
        if unit.state == "pending":
            run.push(unit)
            fan.in_hand += 1


def _leave(run: state.RunState, unit: units.Unit, event: events.StageEvent) -> None:
    unit.ended_at = event.at
    run.running.pop(unit, None)
    run.retrying.pop(unit, None)
    run.lost.pop(unit, None)


def _close(run: state.RunState, unit: units.Unit, event: events.StageEvent) -> bool:
    """Count a stage or an element as ended; tell whether it was a stage."""
    _leave(run, unit, event)
    if isinstance(unit, units.StageRun):
        run.open -= 1
        _forgo(run, unit)
        return True
    fan = run.stages[unit.stage]
    fan.done += 1
    fan.in_hand -= 1
    if fan.state == "running":
        _fill(run, fan)
        _check_fan(run, fan)
    return False


def _forgo(run: state.RunState, fan: units.StageRun) -> None:
    """Take out of the queues what a fan-out has ended without."""
    for element in fan.units or ():
        if element.state in ("pending", "retrying"):
            element.queued = False
            run.retrying.pop(element, None)
            run.lost.pop(element, None)


def _check_fan(run: state.RunState, fan: units.StageRun) -> None:
    """Have the fan closed once its elements are done, or its quorum is out of reach."""
    wide = len(fan.units or ())
    each = run.spec(fan).for_each
    missing = fan.quorum(each.min_success if each else 1.0) > wide - fan.failed
    if missing or fan.done == wide:
        run.due.append(fan.stage)


def _prove(run: state.RunState, event: events.StageEvent, attempt: int, how: str) -> None:
    where = event.where if isinstance(event, events.StageCancelled) else ""
    run.stopped.append(
        events.Stopped(
            stage=event.stage,
            attempt=attempt,
            how=how,
            at=event.at,
            element=event.element,
            where=where,
        )
    )


def _succeeded(run: state.RunState, event: events.StageSucceeded) -> None:
    unit = _unit(run, event)
    if run.cancel and unit in run.running:
        _prove(run, event, event.attempt, "finished")
    run.move(unit, event)
    unit.metrics = event.metrics
    unit.duration_s = event.duration_s
    unit.cached = event.cached
    unit.problem = None
    if isinstance(unit, units.StageRun) and unit.units is not None:
        unit.outputs = fan_outputs(run, unit)
        unit.quarantined = fan_failures(unit)
    else:
        unit.outputs = event.outputs
    if unit.element is not None:
        run.stages[unit.stage].succeeded += 1
    if _close(run, unit, event):
        _resolve(run, unit.stage)


def fan_outputs(run: state.RunState, fan: units.StageRun) -> dict[str, Any]:
    """Gather the outputs of the elements that succeeded, by port, in the order of elements."""
    done = [unit for unit in fan.units or () if unit.state == "succeeded"]
    ports = {port.name: None for port in run.plan.kinds[fan.stage].outputs}
    for unit in done:
        ports.update(dict.fromkeys(unit.outputs))
    return {port: [u.outputs[port] for u in done if port in u.outputs] for port in ports}


def fan_failures(fan: units.StageRun) -> list[commands.ElementFailure]:
    """List the elements that failed."""
    return [
        commands.ElementFailure(unit.element, unit.problem.code, unit.problem.message)
        for unit in fan.units or ()
        if unit.state == "failed" and unit.problem and unit.element is not None
    ]


def _failed(run: state.RunState, event: events.StageFailed) -> None:
    unit = _unit(run, event)
    if run.cancel and unit in run.running:
        _prove(run, event, event.attempt, "finished")
    run.move(unit, event)
    unit.problem = event.problem
    unit.queued = False
    if unit.element is not None:
        run.stages[unit.stage].failed += 1
    if not _close(run, unit, event):
        return
    policy = run.spec(unit).on_failure
    if isinstance(policy, pipelines.Fallback):
        run.due.append(unit.stage)
    elif policy == "skip":
        _resolve(run, unit.stage)
    else:
        run.problem = run.problem or event.problem


def _retrying(run: state.RunState, event: events.StageRetrying) -> None:
    unit = _unit(run, event)
    run.move(unit, event)
    if event.problem.code == "preempted":
        unit.preempted += 1
    else:
        unit.failures += 1
    unit.memory = event.memory_bytes
    unit.problem = event.problem
    unit.next_at = event.next_at
    run.running.pop(unit, None)
    run.retrying[unit] = None
    element = -1 if unit.element is None else unit.element
    heapq.heappush(run.wake, (event.next_at, unit.stage, element))


def _skipped(run: state.RunState, event: events.StageSkipped) -> None:
    unit = run.stages[_unit(run, event).stage]
    run.move(unit, event)
    unit.reason = event.reason
    unit.queued = False
    _close(run, unit, event)
    _resolve(run, unit.stage)


def _cancelled(run: state.RunState, event: events.StageCancelled) -> None:
    unit = _unit(run, event)
    run.move(unit, event)
    unit.queued = False
    if event.attempt and event.how:
        _prove(run, event, event.attempt, event.how)
    run.waiting.pop(unit.stage, None)
    run.cut = True
    _leave(run, unit, event)
    if unit.element is None:
        run.open -= 1


def _noted(
    run: state.RunState,
    event: events.StageDelegated
    | events.StageRegistered
    | events.StageShifted
    | events.StageDeployed,
) -> None:
    run.move(_unit(run, event), event)


def _approval_requested(run: state.RunState, event: events.ApprovalRequested) -> None:
    unit = run.stages[_unit(run, event).stage]
    run.move(unit, event)
    unit.expires_at = event.expires_at
    unit.queued = False
    run.waiting[unit.stage] = None


def _answered(run: state.RunState, event: events.StageApproved | events.StageDenied) -> None:
    unit = run.stages[_unit(run, event).stage]
    run.move(unit, event)
    unit.expires_at = None
    run.waiting.pop(unit.stage, None)
    if isinstance(event, events.StageApproved):
        unit.approved = True
    else:
        unit.denied = (event.by, event.comment)
    run.push(unit)


def _fallback_used(run: state.RunState, event: events.FallbackUsed) -> None:
    unit = _unit(run, event)
    run.move(unit, event)
    if unit.state != "failed" or not isinstance(unit, units.StageRun):
        return  # a model stood in for another inside the stage
    unit.stood_in = True
    fallback = run.plan.fallbacks[unit.stage]
    assert fallback is not None
    run.activated[fallback] = True
    if run.resolved(unit.stage):
        _resolve(run, unit.stage)
    else:
        run.offer(fallback)


def _resolve(run: state.RunState, index: int) -> None:
    """Let what waits for a stage, or for what it stands in for, count down."""
    stack = [index]
    while stack:
        ended = stack.pop()
        for dependent in run.plan.dependents[ended]:
            run.stages[dependent].waiting_on -= 1
            run.offer(dependent)
        stack.extend(user for user in run.plan.users[ended] if run.stages[user].stood_in)
        fallback = run.plan.fallbacks[ended]
        if fallback is not None and not run.stages[ended].stood_in:
            _spare(run, fallback)


def _spare(run: state.RunState, fallback: int) -> None:
    """One stage fewer can need a fallback; the last one settles that it does not run."""
    run.undecided[fallback] -= 1
    spared = not run.undecided[fallback] and not run.activated[fallback]
    if spared and run.stages[fallback].state == "pending":
        run.push(run.stages[fallback])


_HANDLERS: dict[type[events.Event], Callable[[state.RunState, Any], None]] = {
    events.RunAccepted: _accepted,
    events.RunStarted: _taken,
    events.RunRecovered: _taken,
    events.RunSucceeded: _ended,
    events.RunFailed: _ended,
    events.RunCancelled: _ended,
    events.CancelRequested: _cancel_requested,
    events.RunResumed: _resumed,
    events.StageStarted: _started,
    events.StageSucceeded: _succeeded,
    events.StageFailed: _failed,
    events.StageRetrying: _retrying,
    events.StageSkipped: _skipped,
    events.StageCancelled: _cancelled,
    events.StageDelegated: _noted,
    events.StageRegistered: _noted,
    events.StageShifted: _noted,
    events.StageDeployed: _noted,
    events.ApprovalRequested: _approval_requested,
    events.StageApproved: _answered,
    events.StageDenied: _answered,
    events.FallbackUsed: _fallback_used,
}
