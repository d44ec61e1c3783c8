"""Owns which stages run again when a finished run is resumed, and what is forgotten for it."""

from __future__ import annotations

from collections.abc import Iterable

from agent.run import state, stimuli, units
from protocol import events


def again(run: state.RunState, asked: stimuli.ResumeAsked) -> list[str]:
    """List the ids of the stages that run again, in the order of the pipeline.

    These are what failed or was cancelled and what was skipped after it; the chosen stage and the
    stages with new parameters, with all that follows; and for a backfill the stages with
    quarantined elements, with all that follows.
    """
    changed = [run.plan.ids[stage] for stage in asked.params]
    if asked.from_stage is not None:
        changed.append(run.plan.ids[asked.from_stage])
    if asked.backfill:
        changed += [stage.stage for stage in run.stages if stage.quarantined]
    chosen = _after(run, changed, ended=False)
    unfinished = (stage.stage for stage in run.stages if _unfinished(run, stage))
    chosen |= _after(run, unfinished, ended=True)
    chosen |= _fallbacks(run, chosen)
    return [stage.id for index, stage in enumerate(run.plan.stages) if index in chosen]


def _unfinished(run: state.RunState, stage: units.StageRun) -> bool:
    return stage.state == "cancelled" or (
        stage.state == "failed" and run.stand_in(stage.stage).state != "succeeded"
    )


def _after(run: state.RunState, roots: Iterable[int], *, ended: bool) -> set[int]:
    """Give the roots and what follows them; with `ended`, leave out what has succeeded."""
    found = set(roots)
    stack = list(found)
    while stack:
        index = stack.pop()
        stood = [user for user in run.plan.users[index] if run.stages[user].stood_in]
        targets = [t for source in [index, *stood] for t in run.plan.dependents[source]]
        for target in targets:
            if target in found or (ended and run.stages[target].state == "succeeded"):
                continue
            found.add(target)
            stack.append(target)
    return found


def _fallbacks(run: state.RunState, chosen: set[int]) -> set[int]:
    """Give the fallbacks that may be needed again and have no result to offer."""
    found: set[int] = set()
    stack = list(chosen)
    while stack:
        fallback = run.plan.fallbacks[stack.pop()]
        if fallback is None or fallback in chosen or fallback in found:
            continue
        if run.stages[fallback].state != "succeeded":
            found |= {fallback}
            stack.append(fallback)
    return found


def reset(run: state.RunState, event: events.RunResumed) -> None:
    """Fold the resume in: forget the last pass of the stages that run again."""
    chosen = {run.plan.ids[stage]: None for stage in event.again}
    for stage, params in event.params.items():
        index = run.plan.ids[stage]
        run.params[index] = {**run.params[index], **params}
    run.code_version = event.code_version or run.code_version
    run.clock_from = event.at
    run.ended_at = run.problem = run.cancel = None
    run.stopped = []
    run.cut = False
    for queue in (run.ready, run.wake, run.due, run.retrying, run.lost, run.waiting):
        queue.clear()
    for index in chosen:
        _reset_stage(run, index, event, chosen)
    run.open = len(chosen)
    _recount(run, chosen)


def _reset_stage(
    run: state.RunState, index: int, event: events.RunResumed, chosen: dict[int, None]
) -> None:
    stage = run.stages[index]
    only_failed = event.backfill and bool(stage.quarantined)
    fed_anew = any(dep in chosen for dep in run.plan.depends[index])
    asked_again = stage.state == "succeeded" and not only_failed
    changed = fed_anew or asked_again or run.plan.stages[index].id in event.params
    run.move(stage, event)
    stage.refresh = asked_again and not fed_anew
    if changed:
        stage.generation += 1
    approved = stage.approved and not changed
    stage.restart()
    stage.approved = approved
    stage.queued = False
    for unit in stage.units or ():
        if changed or unit.state != "succeeded":
            unit.forget()
            unit.state = "pending"
        unit.queued = False


def _recount(run: state.RunState, chosen: dict[int, None]) -> None:
    """Count anew what the chosen stages wait for, and which fallbacks are in use."""
    for index in chosen:
        users = run.plan.users[index]
        run.undecided[index] = sum(user in chosen for user in users)
        run.activated[index] = any(run.stages[u].stood_in and u not in chosen for u in users)
    for index in chosen:
        deps = run.plan.depends[index]
        run.stages[index].waiting_on = sum(not run.resolved(dep) for dep in deps)
    for index in chosen:
        run.offer(index)
        users = run.plan.users[index]
        if users and not run.undecided[index] and not run.activated[index]:
            run.push(run.stages[index])
