"""Owns the contract with an ML-Training-Specialist: one request, many replies, one result."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec

from protocol import artifacts, problems, wire

Task = Literal["classification", "regression", "forecast"]


class Search(wire.Command, frozen=True):
    """How parameters are searched; `space` maps a parameter to its candidates or its range."""

    strategy: Literal["none", "grid", "random", "bayesian"] = "none"
    space: dict[str, list[Any] | Range] = {}
    max_trials: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    parallel: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Range(wire.Command, frozen=True):
    """A numeric range, inclusive, for random and Bayesian search."""

    low: float
    high: float
    log: bool = False
    integer: bool = False


class Validation(wire.Command, frozen=True):
    """How a candidate is scored: k folds; `time` keeps the order, `group` keeps groups whole."""

    folds: Annotated[int, msgspec.Meta(ge=2, le=100)] = 5
    scheme: Literal["auto", "random", "stratified", "group", "time"] = "auto"
    group: str | None = None


class TrainingRequest(wire.Command, frozen=True, kw_only=True):
    """Train a model; the same `training_id` again attaches to the job or returns its result."""

    training_id: wire.Id
    framework: str
    model: str
    """An estimator's name from the specialist's allow-list, never an import path."""
    target: str
    task: Task | None = None
    """Inferred from the target column where it is not given."""
    params: dict[str, Any] = {}
    search: Search = Search()
    validation: Validation = Validation()
    metric: str | None = None
    train: artifacts.ArtifactRef
    features: artifacts.ArtifactRef | None = None
    """A feature plan, fitted anew inside every fold."""
    artifacts_uri: str
    """Where the model artifact is to be stored."""
    seed: int = 0
    cpu: float = 1.0
    gpu: float = 0.0
    deadline_s: wire.Seconds | None = None
    epoch: int = 0
    run_id: str | None = None
    stage: str | None = None


class TrainingAccepted(wire.Fact, frozen=True, tag="accepted"):
    """The specialist has the job, within 2 s of the request."""

    training_id: str
    specialist: str
    attached: bool = False
    """The job was already running or done."""


class Trial(wire.Fact, frozen=True):
    """One candidate's parameters and score."""

    number: int
    params: dict[str, Any]
    state: Literal["running", "complete", "failed", "pruned"]
    score: float | None = None
    """The validation metric, higher is better."""
    std: float | None = None
    duration_s: float | None = None


class TrainingProgress(wire.Fact, frozen=True, tag="progress"):
    """A heartbeat, at least every 5 s."""

    training_id: str
    at: dt.datetime
    fraction: float | None = None
    message: str = ""
    trial: Trial | None = None
    metrics: dict[str, float] = {}


class TrainingResult(wire.Fact, frozen=True, tag="result"):
    """The trained model, by reference."""

    training_id: str
    model: artifacts.ArtifactRef
    metrics: dict[str, float]
    params: dict[str, Any]
    trials: list[Trial] = []
    duration_s: float = 0.0
    epoch: int = 0


class TrainingFailed(wire.Fact, frozen=True, tag="failed"):
    """The training ended without a model."""

    training_id: str
    problem: problems.Problem


TrainingReply = TrainingAccepted | TrainingProgress | TrainingResult | TrainingFailed


class TrainingCancel(wire.Command, frozen=True):
    """Stop a training."""

    training_id: wire.Id
    reason: str = ""


class TrainingStatus(wire.Fact, frozen=True):
    """Where a training stands; `stopped` says that nothing of it is running any more."""

    training_id: str
    state: Literal["unknown", "running", "succeeded", "failed", "cancelled"]
    stopped: bool = False
