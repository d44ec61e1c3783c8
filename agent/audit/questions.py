"""Owns what a Security-Auditor is asked: the run as its journal has it, and what we find in it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from agent import config
from agent.artifacts import store
from agent.audit import findings, pickles, requests
from agent.run import effects
from protocol import artifacts, audit, codec, commands, events, pipelines

MOST_FINDINGS = 100
"""The worst come first."""


def compose(
    work: effects.Work, commits: list[bytes], kept: store.Store, settings: config.Settings
) -> audit.SecurityAudit:
    """Make the question; blocking. A stage that another agent assigned may have no journal here."""
    accepted, pipeline = _run(commits)
    model = _single(work.inputs.get("model"))
    found = _findings(accepted, pipeline, settings) if accepted and pipeline else []
    found += _in_model(model, kept) if model else []
    return audit.SecurityAudit(
        audit_id=_id(work, pipeline),
        run_id=work.key.run_id,
        stage=work.key.stage,
        pipeline=work.pipeline,
        pipeline_digest=digest(pipeline) if pipeline else None,
        requester=accepted.requester if accepted else "",
        signed_by=accepted.signed_by if accepted else None,
        model=model,
        metrics=_metrics(_single(work.inputs.get("metrics")), kept),
        findings=[_said(one) for one in found[:MOST_FINDINGS]],
    )


def _said(one: findings.Finding) -> audit.AuditFinding:
    return audit.AuditFinding(one.rule, one.severity, one.where, one.why, one.mend)


def digest(pipeline: pipelines.Pipeline) -> str:
    """Digest a pipeline: equal ones have equal digests."""
    data = msgspec.json.encode(pipeline, order="sorted")
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _run(
    commits: list[bytes],
) -> tuple[events.RunAccepted | None, pipelines.Pipeline | None]:
    """Fold what was asked for: the request, and the parameters that resumes have changed."""
    accepted, params = None, dict[str, dict[str, Any]]()
    for data in commits:
        for event in codec.decode(data, events.Commit).events:
            if isinstance(event, events.RunAccepted):
                accepted = event
            elif isinstance(event, events.RunResumed):
                for stage, changed in event.params.items():
                    params[stage] = params.get(stage, {}) | changed
    if accepted is None:
        return None, None
    stages = [
        msgspec.structs.replace(one, params=one.params | params.get(one.id, {}))
        for one in accepted.pipeline.stages
    ]
    return accepted, msgspec.structs.replace(accepted.pipeline, stages=stages)


def _findings(
    accepted: events.RunAccepted, pipeline: pipelines.Pipeline, settings: config.Settings
) -> list[findings.Finding]:
    request = commands.PipelineRequest(
        request_id=accepted.request_id,
        requester=accepted.requester,
        pipeline=pipeline,
        options=accepted.options,
    )
    return requests.examine(requests.Subject(request, settings, msgspec.to_builtins(request)))


def _in_model(ref: artifacts.ArtifactRef, kept: store.Store) -> list[findings.Finding]:
    with kept.path(ref).open("rb") as file:
        reasons = pickles.reasons(file)
    mend = "nothing of ours loads it"
    return [findings.Finding("model/pickle", "high", ref.digest, one, mend) for one in reasons]


def _metrics(ref: artifacts.ArtifactRef | None, kept: store.Store) -> dict[str, float]:
    return dict(getattr(kept.get(ref), "values", {})) if ref else {}


def _single(output: artifacts.Output | None) -> artifacts.ArtifactRef | None:
    return output[0] if isinstance(output, list) else output


def _id(work: effects.Work, pipeline: pipelines.Pipeline | None) -> str:
    """Name the question by what it is about, so that asking again is the same question."""
    inputs = {port: msgspec.to_builtins(ref) for port, ref in work.inputs.items()}
    about = [work.idempotency_key, work.key.run_id, work.key.stage, inputs]
    told = msgspec.json.encode([about, digest(pipeline) if pipeline else ""], order="sorted")
    return f"audit-{hashlib.sha256(told).hexdigest()[:32]}"
