"""Owns the contract with a Security-Auditor: the question before a gate opens, and the verdict."""

from __future__ import annotations

from typing import Literal

from protocol import artifacts, wire


class AuditFinding(wire.Command, frozen=True):
    """One thing that the agent's own audit found."""

    rule: str
    """As `pipeline/plaintext`: the same for the same kind of thing."""
    severity: Literal["high", "medium", "low", "info"]
    where: str
    why: str
    mend: str = ""


class SecurityAudit(wire.Command, frozen=True):
    """May this run go on? Asked again under the same id until there is an answer or the time is up.

    Nothing secret is in it, and no data: the model is a reference.
    """

    audit_id: wire.Id
    run_id: wire.Id
    stage: wire.Id
    """The gate."""
    pipeline: str
    pipeline_digest: artifacts.Digest | None = None
    """Of the pipeline as it runs, in JSON with sorted keys and no blanks."""
    requester: str = ""
    """As the request claims; `signed_by` is verified."""
    signed_by: str | None = None
    model: artifacts.ArtifactRef | None = None
    metrics: dict[str, float] = {}
    findings: list[AuditFinding] = []


class SecurityVerdict(wire.Fact, frozen=True):
    """The Security-Auditor's answer; it is kept in the run's journal."""

    audit_id: wire.Id
    verdict: Literal["allow", "deny"]
    reasons: list[str] = []
    auditor: str = ""
    """Who says so."""
