"""Owns what is told of a run's state to those who ask."""

from __future__ import annotations

import msgspec

from agent.run import state, transitions, units
from protocol import artifacts, commands


def status(run: state.RunState, *, commits: int = 0) -> commands.RunStatus:
    """Describe the run and its stages; the number of commits is the journal's to know."""
    accepted = run.accepted
    return commands.RunStatus(
        run_id=accepted.run_id,
        request_id=accepted.request_id,
        requester=accepted.requester,
        pipeline=accepted.pipeline.name,
        state=run_state(run),
        accepted_at=accepted.at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        stages=[_stage(run, stage) for stage in run.stages],
        problem=run.problem,
        owner=run.owner,
        epoch=run.epoch,
        commits=commits,
    )


def fitting(whole: commands.RunStatus, max_bytes: int) -> commands.RunStatus:
    """Leave out what the journal tells too, step by step, until the status fits a message."""
    found = whole
    for lessen in (_without_columns, _without_outputs, _without_details):
        if len(msgspec.json.encode(found)) <= max_bytes:
            break
        stages = [lessen(stage) for stage in found.stages]
        found = msgspec.structs.replace(found, stages=stages)
    return found


def _without_columns(stage: commands.StageStatus) -> commands.StageStatus:
    plain = {port: _plain(output) for port, output in stage.outputs.items()}
    return msgspec.structs.replace(stage, outputs=plain)


def _plain(output: artifacts.Output) -> artifacts.Output:
    if isinstance(output, list):
        return [msgspec.structs.replace(ref, schema=None) for ref in output]
    return msgspec.structs.replace(output, schema=None)


def _without_outputs(stage: commands.StageStatus) -> commands.StageStatus:
    return msgspec.structs.replace(stage, outputs={}, quarantined=[])


def _without_details(stage: commands.StageStatus) -> commands.StageStatus:
    return commands.StageStatus(
        id=stage.id,
        use=stage.use,
        state=stage.state,
        attempt=stage.attempt,
        elements=stage.elements,
        elements_done=stage.elements_done,
    )


def summary(run: state.RunState) -> commands.RunSummary:
    """Describe the run in a line."""
    accepted = run.accepted
    return commands.RunSummary(
        run_id=accepted.run_id,
        pipeline=accepted.pipeline.name,
        requester=accepted.requester,
        state=run_state(run),
        accepted_at=accepted.at,
        ended_at=run.ended_at,
        stages=len(run.stages),
        stages_done=sum(stage.state in transitions.ENDED for stage in run.stages),
    )


def run_state(run: state.RunState) -> commands.RunState:
    """Name the state; a run that only people can bring on is waiting."""
    return "waiting" if run.parked else run.run  # type: ignore[return-value]


def _stage(run: state.RunState, stage: units.StageRun) -> commands.StageStatus:
    spec = run.spec(stage)
    fan = stage.units
    return commands.StageStatus(
        id=spec.id,
        use=spec.use,
        state=stage.state,  # type: ignore[arg-type]
        attempt=stage.attempt,
        started_at=stage.started_at,
        ended_at=stage.ended_at,
        duration_s=stage.duration_s,
        cached=stage.cached,
        metrics=stage.metrics,
        outputs=stage.outputs,
        elements=None if fan is None else len(fan),
        elements_done=None if fan is None else stage.done,
        quarantined=stage.quarantined,
        problem=stage.problem,
        reason=stage.reason,
    )
