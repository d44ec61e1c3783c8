"""Owns what follows when a timer comes due; one that has lost its meaning is ignored.

Work that is told to stop is asked first, and forced when it has not stopped a second later.
"""

from __future__ import annotations

import datetime as dt

from agent.run import decide_work, effects, follow, moment, state, stimuli, times
from protocol import events

GRACE_S = 1.0
"""Between asking and forcing, after a timeout or the deadline; a cancellation names its own."""


def fired(run: state.RunState, told: stimuli.TimerFired, at: moment.Moment) -> decide_work.Decision:
    """Find the timer's meaning and act on it."""
    kind, key = times.parse(told.name, run.accepted.run_id)
    if run.over:
        return [], []
    if kind == times.CANCEL:
        return [], _forced(run, "cancelled") if run.cancel else []
    if kind in (times.DEADLINE, times.DEADLINE_FORCE):
        return [], _deadline(run, at.now, kind)
    if key is not None and kind == "approval":
        return _expired(run, key.stage, at)
    return [], _attempt(run, key, told.name, kind, at.now) if key else []


def _attempt(
    run: state.RunState, key: effects.WorkKey, name: str, kind: str, now: dt.datetime
) -> list[effects.Effect]:
    return _retry(run, key, name, now) if kind == "retry" else _timeout(run, key, kind, now)


def _forced(run: state.RunState, reason: effects.StopReason) -> list[effects.Effect]:
    return follow.stop_all(run, force=True, reason=reason)


def _deadline(run: state.RunState, now: dt.datetime, kind: str) -> list[effects.Effect]:
    deadline = run.deadline
    if deadline is None or run.run == "cancelling":
        return []
    if now < deadline:
        return [effects.SetTimer(times.DEADLINE, deadline)]
    if kind == times.DEADLINE_FORCE:
        return _forced(run, "deadline")
    if not run.running:
        return []
    stops = follow.stop_all(run, force=False, reason="deadline")
    return [*stops, effects.SetTimer(times.DEADLINE_FORCE, times.after(now, GRACE_S))]


def _expired(run: state.RunState, stage: str, at: moment.Moment) -> decide_work.Decision:
    index = run.plan.ids.get(stage)
    if index is None or index not in run.waiting or run.run == "cancelling":
        return [], []
    expires = run.stages[index].expires_at
    if expires is None:
        return [], []
    if at.now < expires:
        return [], [effects.SetTimer(times.approval(stage), expires)]
    return [_denied(stage, at)], []


def unanswered(run: state.RunState, at: moment.Moment) -> list[events.StageDenied]:
    """Shut the gates that expired while nobody held the run; their timers would come too late."""
    if run.stopping(at.now):
        return []
    dates = {run.plan.stages[index].id: run.stages[index].expires_at for index in run.waiting}
    return [_denied(name, at) for name, date in dates.items() if date and date <= at.now]


def _denied(stage: str, at: moment.Moment) -> events.StageDenied:
    """Make the event of a gate that nobody answered in time."""
    comment = "nobody answered in time"
    return events.StageDenied(
        at=at.now, cause=at.cause, stage=stage, by="time limit", comment=comment
    )


def _retry(
    run: state.RunState, key: effects.WorkKey, name: str, now: dt.datetime
) -> list[effects.Effect]:
    """Nothing but the time is needed: what is due is started by itself."""
    unit = run.unit(key.stage, key.element)
    early = unit is not None and unit in run.retrying and unit.attempt == key.attempt
    if early and unit is not None and unit.next_at is not None and now < unit.next_at:
        return [effects.SetTimer(name, unit.next_at)]
    return []


def _timeout(
    run: state.RunState, key: effects.WorkKey, kind: str, now: dt.datetime
) -> list[effects.Effect]:
    if run.at_work(key) is None or run.run == "cancelling":
        return []
    if kind == "force":
        return [effects.Stop(key, force=True, reason="timeout")]
    if kind != "timeout":
        return []
    force = effects.SetTimer(times.timer("force", key), times.after(now, GRACE_S))
    return [effects.Stop(key, force=False, reason="timeout"), force]
