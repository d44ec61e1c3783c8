"""Owns the stage `deploy.model`: a trained model becomes an endpoint; the agent has it done."""

from __future__ import annotations

from typing import Annotated

import msgspec

from stages import kit, models, values

NAME = "deploy.model"


@kit.stage(NAME, delegated=True, effects=True)
class Deploy(kit.Stage, frozen=True):
    """Let a model answer over HTTP and on the bus, in place of the version before.

    The version is the one that `register.model` gave (input `registered`), else it is made of the
    model's digest. It serves only once it was loaded and has predicted the given rows; until then,
    and if it cannot, the version before serves on. The same model again changes nothing.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
    """Of the endpoint: `/v1/models/NAME:predict`."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    try_rows: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8
    """Of the input `rows`, so many are predicted before the version serves."""
    within_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    """How long it may take until it serves."""

    def run(
        self,
        model: models.Model,  # noqa: ARG002 - a port
        registered: values.Report | None,  # noqa: ARG002 - a port
        rows: values.Table | None,  # noqa: ARG002 - a port
    ) -> values.Report:
        """Refuse: this stage is delegated."""
        msg = f"{NAME} is carried out by a serving host"
        raise kit.NotAllowed(msg)
