"""Owns what follows when an agent takes the run, or somebody cancels, resumes or answers."""

from __future__ import annotations

from agent.run import (
    decide_timers,
    decide_work,
    effects,
    errors,
    follow,
    moment,
    resume,
    state,
    stimuli,
    times,
    units,
)
from protocol import events, problems


def taken(run: state.RunState, told: stimuli.Taken, at: moment.Moment) -> decide_work.Decision:
    """Begin, or go on; a run that is over is only ended again, so that its ticket can go."""
    if run.over:
        return [], [effects.End(run.run)]  # type: ignore[arg-type]
    if run.epoch == 0:
        started = events.RunStarted(at=at.now, cause=at.cause, owner=told.owner, epoch=told.epoch)
        return [started, *decide_timers.unanswered(run, at)], []
    recovered = events.RunRecovered(
        at=at.now, cause=at.cause, owner=told.owner, epoch=told.epoch, problem=told.problem
    )
    going_on = [_adopted(run, unit, at) for unit in run.running if run.key(unit) in told.kept]
    return [recovered, *going_on, *([] if told.problem else decide_timers.unanswered(run, at))], []


def _adopted(run: state.RunState, unit: units.Unit, at: moment.Moment) -> events.StageStarted:
    """Tell that an attempt goes on under the new owner; its number stays."""
    return events.StageStarted(
        at=at.now,
        cause=at.cause,
        stage=run.spec(unit).id,
        element=unit.element,
        attempt=unit.attempt,
        memory_bytes=unit.memory,
        adopted=True,
    )


def cancel(
    run: state.RunState, told: stimuli.CancelAsked, at: moment.Moment
) -> decide_work.Decision:
    """Stop the run; asked twice, the sooner of the two limits holds."""
    if run.over:
        raise _refused(run, f"the run has {run.run} and cannot be cancelled")
    if run.cancel is not None:
        limit = times.after(run.cancel.at, run.cancel.grace_s)
        sooner = min(limit, times.after(at.now, told.grace_s))
        if at.now >= sooner:
            return [], follow.stop_all(run, force=True, reason="cancelled")
        return [], [effects.SetTimer(times.CANCEL, sooner)]
    event = events.CancelRequested(
        at=at.now,
        cause=at.cause,
        by=told.by,
        reason=told.reason,
        grace_s=told.grace_s,
        signed_by=told.signed_by,
    )
    return [event], []


def resumed(
    run: state.RunState, told: stimuli.ResumeAsked, at: moment.Moment
) -> decide_work.Decision:
    """Let a finished run go on, with whatever must run again named in the event."""
    if not run.over or (run.run == "succeeded" and not told.backfill):
        raise _refused(run, f"the run is {run.run}; only a failed or cancelled one can be resumed")
    named = [*told.params, *([told.from_stage] if told.from_stage is not None else [])]
    for stage in named:
        if stage not in run.plan.ids:
            raise _refused(run, f"the run has no stage {stage!r}", "not_found")
    again = resume.again(run, told)
    if not again:
        raise _refused(run, "the run has nothing that could run again")
    event = events.RunResumed(
        at=at.now,
        cause=at.cause,
        by=told.by,
        again=again,
        params=told.params,
        backfill=told.backfill,
        code_version=told.code_version,
        signed_by=told.signed_by,
    )
    return [event], []


def answered(
    run: state.RunState, told: stimuli.Answered, at: moment.Moment
) -> decide_work.Decision:
    """Open or shut a gate; an answer that nobody waits for is ignored."""
    index = run.plan.ids.get(told.stage)
    if index is None:
        raise _refused(run, f"the run has no stage {told.stage!r}", "not_found")
    if index not in run.waiting or run.run != "running":
        return [], []
    kind = events.StageApproved if told.approved else events.StageDenied
    event = kind(
        at=at.now,
        cause=at.cause,
        stage=told.stage,
        by=told.by,
        comment=told.comment,
        signed_by=told.signed_by,
    )
    return [event], []


def _refused(run: state.RunState, message: str, code: problems.Code = "conflict") -> errors.Refused:
    problem = problems.Problem(code=code, message=message, run_id=run.accepted.run_id)
    return errors.Refused(problem)
