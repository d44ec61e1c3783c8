"""Owns the contract of endpoints: a model is deployed, asked for predictions and taken away."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from protocol import artifacts, wire

MODEL_VERSION = "Model-Version"
"""The header of every answer of an endpoint: which version of the model has given it."""

Replicas = Annotated[int, msgspec.Meta(ge=1, le=64)]
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


class EndpointQuery(wire.Command, frozen=True):
    """Ask for endpoints."""

    name: wire.Id | None = None


class EndpointVersion(wire.Fact, frozen=True):
    """A version that an endpoint has, and its share of the requests."""

    version: str
    digest: artifacts.Digest
    replicas: int
    weight: float = 1.0


class Endpoint(wire.Fact, frozen=True):
    """Where a model answers. `down` means that whoever serves it has to come back first."""

    name: str
    state: Literal["serving", "starting", "down", "gone"]
    versions: list[EndpointVersion] = []
    url: str = ""
    """Where predictions are asked for by HTTP."""
    subject: str = ""
    """Where they are asked for on the bus."""


class EndpointList(wire.Fact, frozen=True):
    """The endpoints that there are."""

    endpoints: list[Endpoint]
