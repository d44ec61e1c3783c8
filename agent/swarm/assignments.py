"""Owns how a piece of work becomes an assignment and back, and an outcome a report and back."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import msgspec

from agent.execution import attempt, base
from agent.run import effects
from protocol import problems, swarm


def ids(work: effects.Work) -> Iterator[str]:
    """Name the assignments that a piece of work may have had, and the one that it has next.

    They follow from what is done and not from the attempt, so that whoever takes a run over finds
    what was assigned before. One that has failed is not asked again: the next id takes its place.
    """
    key = work.key
    place = [key.run_id, key.stage, key.element, work.idempotency_key]
    what = [work.use, work.params, attempt.digests(work.inputs), work.item, work.item_into]
    content = msgspec.json.encode([place, what, work.seed], order="sorted")
    digest = hashlib.sha256(content).hexdigest()[:32]
    return (f"stage-{digest}-{number}" for number in itertools.count(1))


def assign(name: str, work: effects.Work) -> swarm.StageAssignment:
    """Make the assignment. It has no deadline: its owner stops it when its time is over."""
    item, into = work.item, work.item_into
    return swarm.StageAssignment(
        assignment_id=name,
        use=work.use,
        params=work.params,
        inputs=work.inputs,
        attempt=work.key.attempt,
        run_id=work.key.run_id,
        stage=work.key.stage,
        epoch=work.epoch,
        element=work.key.element,
        item=swarm.AssignedItem(item.source, into, item.index) if item and into else None,
        resources=work.resources,
        cache=work.cache,
        seed=work.seed,
        pipeline=work.pipeline,
        idempotency_key=work.idempotency_key,
        max_artifact_bytes=work.max_artifact_bytes,
    )


def work_of(
    asked: swarm.StageAssignment,
    placement: effects.Placement,
    number: int,
    traceparent: str | None = None,
) -> effects.Work:
    """Make the work of an assignment; `number` tells it from all else that this agent does."""
    name, item = asked.assignment_id, asked.item
    return effects.Work(
        key=effects.WorkKey(asked.run_id or name, asked.stage or name, asked.element, number),
        use=asked.use,
        placement=placement,
        params=asked.params,
        inputs=asked.inputs,
        item=effects.Item(item.source, item.index) if item else None,
        item_into=item.into if item else None,
        resources=asked.resources,
        cache=asked.cache,
        seed=asked.seed,
        epoch=asked.epoch,
        pipeline=asked.pipeline,
        idempotency_key=asked.idempotency_key or name,
        deadline=asked.deadline,
        traceparent=traceparent,
        max_artifact_bytes=asked.max_artifact_bytes,
    )


def report(
    asked: swarm.StageAssignment,
    agent: str,
    outcome: base.Outcome,
    notes: list[swarm.Noted] | None = None,
) -> swarm.StageReport:
    """Tell how an assignment ended."""
    told = swarm.StageReport(
        assignment_id=asked.assignment_id,
        agent=agent,
        state="failed",
        attempt=asked.attempt,
        epoch=asked.epoch,
        notes=notes or [],
    )
    match outcome:
        case base.Succeeded():
            return msgspec.structs.replace(
                told,
                state="succeeded",
                outputs=dict(outcome.outputs),
                metrics=outcome.metrics,
                duration_s=outcome.duration_s,
                usage=outcome.usage,
                cached=outcome.cached,
                code_version=outcome.code_version,
            )
        case base.Failed():
            return msgspec.structs.replace(told, problem=outcome.problem, log=outcome.log)
        case base.Halted():
            problem = problems.Problem("cancelled", "the assignment was cancelled")
            return msgspec.structs.replace(
                told, problem=problem, how=outcome.how, where=outcome.where
            )


def outcome(told: swarm.StageReport) -> base.Outcome:
    """Say how the attempt ended that a report is about."""
    if told.state == "succeeded":
        return base.Succeeded(
            {port: ref for port, ref in told.outputs.items() if not isinstance(ref, list)},
            told.metrics,
            told.duration_s,
            told.usage,
            cached=told.cached,
            code_version=told.code_version,
        )
    problem = told.problem or problems.Problem("internal", f"{told.agent} did not say why")
    if problem.code == "cancelled":
        return base.Halted(told.how or "asked", told.where)
    return base.Failed(problem, told.log)
