"""Owns the contract of endpoints: a model is deployed, asked for predictions and taken away."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from protocol import artifacts, wire

MODEL_VERSION = "Model-Version"
"""The header of every answer of an endpoint: which version of the model has given it."""

PREDICTION_ID = "Prediction-Id"
"""The header of an answer while two versions are compared: its outcome is told under this."""
ASSIGNMENT_KEY = "Assignment-Key"
"""The header of a request: requests of one key go to one version while there are two."""

Replicas = Annotated[int, msgspec.Meta(ge=1, le=64)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=99)]
Share = Annotated[int, msgspec.Meta(ge=0, le=99)]
ShiftPhase = Literal["canary", "versus", "serves", "rolled_back"]
Row = dict[str, Any]
"""The model's columns by name; null is a missing value."""


class Predict(wire.Command, frozen=True):
    """Ask a deployed model for predictions: of one `row`, or of several `rows`."""

    row: Row | None = None
    rows: list[Row] | None = None
    probabilities: bool = False
    """Give those of the classes, too."""


class Predicted(wire.Fact, frozen=True):
    """What a model predicts, in the order of the rows; the version is in a header."""

    predictions: list[Any]
    probabilities: list[list[float]] | None = None
    classes: list[Any] = []
    """The labels that the probabilities are of, in their order."""


class Canary(wire.Command, frozen=True, kw_only=True):
    """How requests move to a new version: by steps, and all of them back where it is worse."""

    steps: Annotated[list[Share], msgspec.Meta(min_length=1, max_length=20)]
    """Its shares of the requests, one after the other; then all are its own. With 0 it is a shadow:
    it is asked what the version before has answered, and nobody gets its answers."""
    hold_s: wire.Seconds = 60.0
    """Each step lasts so long at least, and until it has answered `min_requests`."""
    min_requests: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 50
    """Nothing is said of its errors or its latency of fewer."""
    wait_s: wire.Seconds = 600.0
    """A step that has had too few requests by then shows nothing: they move back."""
    answer_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """What it has not answered by then is an error, and the version before answers it."""
    max_error_rate: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01
    """Of its requests, those that it did not answer and the version before did."""
    max_different: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Of the answers of a shadow, those that the version before has given otherwise."""
    max_latency_ratio: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    """Of its 95th percentile to that of the version before in the same step."""


class Versus(wire.Command, frozen=True, kw_only=True):
    """How a new version and the one that serves are compared by what came of their predictions."""

    percent: Percent = 50
    """Of the requests that the new version gets."""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """How likely it may be that the wrong one is called the better, whenever one looks."""
    max_outcomes: Annotated[int, msgspec.Meta(ge=2, le=1_000_000)] = 10_000
    """With so many it is left open."""
    max_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0


class HeldBack(wire.Command, frozen=True, kw_only=True):
    """Rows with their target on which a version must not be worse than the one that serves."""

    table: artifacts.ArtifactRef
    metric: str
    max_worse: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """As a share of the metric of the version that serves."""


class Outcome(wire.Command, frozen=True):
    """Tell what came of a prediction, while two versions are compared."""

    prediction: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """As the header of the answer named it."""
    value: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """How good it was: 1 is best."""


class OutcomeTaken(wire.Fact, frozen=True):
    """An outcome was taken."""

    prediction: str
    version: str
    """That gave the prediction."""
    counted: bool
    """False where there was an outcome for the same prediction, or the same key, before."""


class DeployModel(wire.Command, frozen=True, kw_only=True):
    """Let a version of a model serve; the same `key` again attaches, or tells what came of it."""

    name: wire.Id
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    model: artifacts.ArtifactRef
    replicas: Replicas = 1
    rows: list[Row] = []
    """The version has to predict these before it gets any request."""
    key: str
    run_id: wire.Id
    epoch: int
    """Of the run's owner: who has lost the run meanwhile deploys nothing."""
    canary: Canary | None = None
    """Without one all requests move at once."""
    versus: Versus | None = None
    """All requests move only once the new version has proved to be better."""
    held_back: HeldBack | None = None
    keep_s: wire.Seconds = 0.0
    """The version before is kept running for so long, so that it is back at once."""
    asker: str = ""
    """Who attaches: a deployment that has failed is told to who has waited for it, and is made
    again for who asks anew."""
    since: wire.Time | None = None
    """Of the last shift that the asker knows of."""


class Shift(wire.Fact, frozen=True, kw_only=True):
    """Requests have moved from one version to another."""

    at: wire.Time
    phase: ShiftPhase
    percent: float
    """Of the requests that the new version gets from now on."""
    before: str = ""
    """The version that gets the others."""
    reason: str = ""
    measured: dict[str, float] = {}
    """In the step that ends with it."""


class HaltDeploy(wire.Command, frozen=True):
    """Stop a deployment that is under way; one that is done stays."""

    key: str


class DeployHalted(wire.Fact, frozen=True):
    """Nothing of the deployment is under way any more."""

    key: str
    halted: bool
    """False where it was not under way: it is done, or not known."""


class Undeploy(wire.Command, frozen=True):
    """Take an endpoint away."""

    name: wire.Id
    by: str = ""


class RollBack(wire.Command, frozen=True):
    """Let the version before serve again; a deployment that is under way is stopped instead."""

    name: wire.Id
    by: str = ""
    reason: str = ""
    key: str = ""
    """The same key again is the same, and done once."""


class EndpointQuery(wire.Command, frozen=True):
    """Ask for endpoints."""

    name: wire.Id | None = None


class EndpointVersion(wire.Fact, frozen=True):
    """A version that an endpoint has, and its share of the requests."""

    version: str
    digest: artifacts.Digest
    replicas: int
    weight: float = 1.0
    """A new version that is tried out by steps has its part, and the one before the rest."""


class Endpoint(wire.Fact, frozen=True):
    """Where a model answers. `down` means that whoever serves it has to come back first."""

    name: str
    state: Literal["serving", "starting", "down", "gone"]
    versions: list[EndpointVersion] = []
    url: str = ""
    """Where predictions are asked for by HTTP."""
    subject: str = ""
    """Where they are asked for on the bus."""
    before: str = ""
    """The version that a rollback brings back."""


class Deployment(wire.Fact, frozen=True):
    """How far a deployment is. What kept it from being done is told as a problem instead."""

    endpoint: Endpoint
    under_way: bool = False
    """Ask again for what comes next."""
    shifts: list[Shift] = []
    """Those that the asker does not know of."""


class EndpointList(wire.Fact, frozen=True):
    """The endpoints that there are."""

    endpoints: list[Endpoint]
