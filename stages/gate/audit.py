"""Owns the stage `gate.audit`: what waits for a Security-Auditor's verdict; the agent asks it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from stages import kit, models, values

NAME = "gate.audit"


@kit.stage(NAME, delegated=True, effects=True)
class Audit(kit.Stage, frozen=True):
    """Let what follows go on only if a Security-Auditor allows it.

    The auditor is told the run, the digest of its pipeline, the model, and what our own audit
    finds. A stage that must wait for the verdict names this one in `needs`.
    """

    within_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0
    """How long an answer is waited for."""
    on_silence: Literal["deny", "allow"] = "deny"
    """What no answer means."""

    def run(
        self,
        model: models.Model | None,  # noqa: ARG002 - a port
        metrics: values.Metrics | None,  # noqa: ARG002 - a port
    ) -> values.Report:
        """Refuse: this stage is delegated."""
        msg = f"{NAME} is carried out by a Security-Auditor"
        raise kit.NotAllowed(msg)
