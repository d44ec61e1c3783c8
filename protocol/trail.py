"""Owns the audit log: who asked for what and how it was answered, one record for each command."""

from __future__ import annotations

import datetime as dt

from protocol import wire

UNSIGNED = "unsigned"
"""Stands for a signer where there is none; no key can have this name."""
DONE = "ok"


class AuditRecord(wire.Fact, frozen=True, kw_only=True):
    """What was asked, by whom, and how it was answered; never what was in it."""

    at: dt.datetime
    agent: str
    action: str
    """`submit`, `queue`, `cancel`, `resume`, `approve`, `deny`, `control`,
    `undeploy`, `rollback` or a refused `prompt`."""
    outcome: str
    """`ok`, or the code of the problem it was refused with."""
    signed_by: str
    """The name that the agent knows the verified key by, or `unsigned`."""
    key: str | None = None
    """The public key that was verified."""
    claimed: str | None = None
    """Whom the command itself names; proves nothing."""
    run_id: str | None = None
    stage: str | None = None
    digest: str = ""
    """`sha256:…` of the command as it came."""
