"""Owns what the run core wants done: plain data, carried out by the conductor."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

from protocol import artifacts, pipelines

Placement = Literal["ray", "agent", "swarm", "training"]
StopReason = Literal["cancelled", "timeout", "deadline"]


class Item(msgspec.Struct, frozen=True, tag=True):
    """The element of an upstream list that one instance of a fanned-out stage works on.

    `source` is a `list` artifact (the element is a JSON value), or the artifact itself where the
    upstream stage was fanned out too.
    """

    source: artifacts.ArtifactRef
    index: int | None


class WorkKey(msgspec.Struct, frozen=True):
    """One attempt of one stage, or of one of its elements: what is started and stopped."""

    run_id: str
    stage: str
    element: int | None
    attempt: int


class Work(msgspec.Struct, frozen=True):
    """Everything an executor needs for one attempt."""

    key: WorkKey
    use: str
    placement: Placement
    params: dict[str, Any]
    inputs: dict[str, artifacts.Output]
    """By port."""
    item: Item | None = None
    item_into: str | None = None
    """The parameter or input port that receives the item."""
    resources: pipelines.Resources = pipelines.Resources()
    """With the memory of this attempt, raised where an earlier one ran out."""
    cache: pipelines.CachePolicy = "use"
    seed: int = 0
    epoch: int = 0
    pipeline: str = ""
    idempotency_key: str = ""
    """The same for every attempt."""
    deadline: dt.datetime | None = None
    traceparent: str | None = None
    """W3C trace context of the request."""
    max_artifact_bytes: int | None = None
    """A larger output is not stored."""
    heritable: bool = False
    """The run's next owner can go on with it, where it outlives this one."""
    adopt: bool = False
    """A former owner had it begun, and somebody is at it or has done it: go on with that."""


class Launch(msgspec.Struct, frozen=True):
    """Start an attempt; with `after_commit`, only once the commit that says so is stored."""

    work: Work
    after_commit: bool = False


class Stop(msgspec.Struct, frozen=True):
    """Stop an attempt: ask it, or kill it. A WorkStopped (or its ordinary end) must follow."""

    key: WorkKey
    force: bool
    reason: StopReason


class Recall(msgspec.Struct, frozen=True):
    """Have stopped what a lost agent asked a specialist or the swarm for; nothing follows."""

    work: Work


class SetTimer(msgspec.Struct, frozen=True):
    """Send TimerFired with this name at that time; replaces a timer of the same name."""

    name: str
    at: dt.datetime


class ClearTimer(msgspec.Struct, frozen=True):
    """Forget a timer; unknown names are ignored."""

    name: str


class Warn(msgspec.Struct, frozen=True):
    """Publish an alert."""

    severity: Literal["info", "warning", "critical"]
    message: str
    stage: str | None = None


class Park(msgspec.Struct, frozen=True):
    """Nothing can happen until a person answers: the run gives its slot back."""

    until: dt.datetime | None = None
    """When a gate expires or the deadline falls, if ever: the run must be taken again by then."""


class End(msgspec.Struct, frozen=True):
    """The run is over: its ticket can be acknowledged once its last commit is stored."""

    state: Literal["succeeded", "failed", "cancelled"]


Effect = Launch | Stop | Recall | SetTimer | ClearTimer | Warn | Park | End
