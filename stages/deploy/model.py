"""Owns the stage `deploy.model`: a trained model becomes an endpoint; the agent has it done."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from stages import kit, models, values

NAME = "deploy.model"
Metric = Literal[
    "accuracy", "balanced_accuracy", "f1_macro", "f1", "precision", "recall", "rmse", "mae", "r2"
]
Percent = Annotated[int, msgspec.Meta(ge=1, le=99)]
Share = Annotated[int, msgspec.Meta(ge=0, le=99)]


class Canary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests move to the new version: by steps, and all of them back where it is worse."""

    steps: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1, max_length=20)] = (10, 50)
    """Its shares of the requests in percent, one after the other; then all are its own. With 0 it
    is a shadow: it is asked what the version before has answered, and nobody gets its answers."""
    hold_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    """Each step lasts so long at least, and until the new version has answered `min_requests`."""
    min_requests: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50
    """Nothing is said of the errors or the latency of fewer."""
    wait_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 600.0
    """A step that has had too few requests by then shows nothing: they move back."""
    answer_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    """What it has not answered by then is an error, and the version before answers it."""
    max_error_rate: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01
    """Of its requests, those that it did not answer and the version before did."""
    max_different: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Of the answers of a shadow, those that the version before has given otherwise."""
    max_latency_ratio: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    """Of its 95th percentile to that of the version before in the same step."""

    @property
    def longest_s(self) -> float:
        """Give how long all steps may take."""
        return len(self.steps) * max(self.hold_s, self.wait_s)


class Versus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How both versions are compared by what came of their predictions."""

    percent: Percent = 50
    """Of the requests that the new version gets."""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """How likely it may be that the wrong one is called the better, whenever one looks."""
    max_outcomes: Annotated[int, msgspec.Meta(ge=2, le=1_000_000)] = 10_000
    """With so many it is left open, and the version before serves on."""
    max_s: Annotated[float, msgspec.Meta(gt=0, le=2_592_000)] = 86_400.0
    """The same after so long."""


@kit.stage(NAME, delegated=True, effects=True)
class Deploy(kit.Stage, frozen=True):
    """Let a model answer over HTTP and on the bus, in place of the version before.

    The version is the one that `register.model` gave (input `registered`), else it is made of the
    model's digest. It serves only once it was loaded and has predicted the given rows; until then,
    and if it cannot, the version before serves on. The same model again changes nothing.

    With `max_worse` it must also be as good on the rows as the version that serves. With a `canary`
    requests move to it by steps, and back by themselves; the stage then fails as `denied`. With
    `versus` both answer until what came of their predictions tells which one is better.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
    """Of the endpoint: `/v1/models/NAME:predict`."""
    replicas: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    try_rows: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8
    """Of the input `rows`, so many are predicted before the version serves."""
    within_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    """How long it may take until it serves, besides a canary's steps and a comparison."""
    canary: Canary | None = None
    """Without one all requests move at once."""
    versus: Versus | None = None
    """All requests move only once outcomes have told that the new version is better."""
    max_worse: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """How much worse than the version that serves it may be on all `rows`, as a share of that
    one's metric; not compared where not given."""
    metric: Metric | None = None
    """The metric of `max_worse`: f1_macro for classes, rmse for numbers and mae for forecasts
    where not given."""
    keep_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 300.0
    """The version before is kept running for so long, so that a rollback brings it back at once."""

    @property
    def longest_s(self) -> float:
        """Give how long it may take altogether."""
        steps_s = self.canary.longest_s if self.canary else 0.0
        return self.within_s + steps_s + (self.versus.max_s if self.versus else 0.0)

    def run(
        self,
        model: models.Model,  # noqa: ARG002 - a port
        registered: values.Report | None,  # noqa: ARG002 - a port
        rows: values.Table | None,  # noqa: ARG002 - a port
    ) -> values.Report:
        """Refuse: this stage is delegated."""
        msg = f"{NAME} is carried out by a serving host"
        raise kit.NotAllowed(msg)
