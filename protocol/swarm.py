"""Owns the contract with the Swarm-Orchestrator: assignments, reports, presence and control."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec

from protocol import artifacts, events, pipelines, problems, wire

PRESENCE_S = 2.0
"""How often an agent says that it is there."""
GONE_AFTER_S = 10.0
"""An agent whose last card is older than this is gone, whatever else is told of it."""


class AssignedItem(wire.Command, frozen=True):
    """The element of a list that one instance of a fanned-out stage works on."""

    source: artifacts.ArtifactRef
    """A `list` artifact, or the artifact itself where `index` is null."""
    into: str
    """The parameter or input port that receives it."""
    index: int | None = None


class StageAssignment(wire.Command, frozen=True):
    """One stage for any capable agent; delivered at least once, reported exactly once."""

    assignment_id: wire.Id
    use: str
    params: dict[str, Any] = {}
    inputs: dict[str, artifacts.Output] = {}
    attempt: int = 1
    deadline: wire.Time | None = None
    run_id: str | None = None
    stage: str | None = None
    epoch: int = 0
    """Of the run's owner: an assignment of an owner that has lost the run is refused."""
    element: int | None = None
    item: AssignedItem | None = None
    resources: pipelines.Resources = pipelines.Resources()
    cache: pipelines.CachePolicy = "use"
    seed: int = 0
    pipeline: str = ""
    idempotency_key: str = ""
    """The same for every attempt; the assignment's id where not given."""
    max_artifact_bytes: int | None = None
    """A larger output is not stored, and the stage fails."""


class AssignmentProgress(wire.Fact, frozen=True):
    """A sign of life of whoever has taken an assignment; not stored."""

    assignment_id: str
    agent: str
    at: dt.datetime
    state: Literal["taken", "running"]
    """`running` once the attempt has its place: time limits count from there."""
    fraction: float | None = None
    message: str = ""
    metrics: dict[str, float] = {}


class AssignmentCancel(wire.Command, frozen=True):
    """Ask whoever has taken an assignment to stop, or with `force` to end it at once."""

    assignment_id: wire.Id
    reason: str = ""
    force: bool = False


class AssignmentStatus(wire.Fact, frozen=True):
    """The answer to a cancellation: told only when nothing of the assignment runs any more."""

    assignment_id: str
    agent: str
    stopped: bool
    how: str = ""
    where: str = ""


class Noted(wire.Fact, frozen=True):
    """A fact that a stage told for the journal of its run, such as `registered`."""

    fact: str
    details: dict[str, Any] = {}


class StageReport(wire.Fact, frozen=True):
    """The one answer to an assignment."""

    assignment_id: str
    agent: str
    state: Literal["succeeded", "failed"]
    outputs: dict[str, artifacts.Output] = {}
    metrics: dict[str, float] = {}
    problem: problems.Problem | None = None
    duration_s: float = 0.0
    usage: events.Usage | None = None
    attempt: int = 1
    epoch: int = 0
    """Of the assignment that was taken."""
    cached: bool = False
    code_version: str = ""
    """Digest of the stage's code where it ran."""
    notes: list[Noted] = []
    log: str = ""
    """The end of what a failed stage printed."""
    how: str = ""
    """How it was stopped, where the problem is `cancelled`: `asked`, `forced`, `not_started`."""
    where: str = ""
    """What was stopped, as `pid 123 on node-1`."""


class AgentCard(wire.Fact, frozen=True):
    """Who an agent is and what it can take on now."""

    agent: str
    role: str
    version: str
    capabilities: list[str]
    capacity: int
    load: int
    state: Literal["ready", "draining", "stopped"]
    at: wire.Time
    runs: int = 0
    """That it holds."""


class AgentControl(wire.Command, frozen=True):
    """Ask an agent to drain, to take work again, or to change its capacity."""

    action: Literal["drain", "undrain", "set_capacity"]
    capacity: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """For `set_capacity`; without it the agent goes back to its configuration, or measures."""


class Alert(wire.Fact, frozen=True):
    """Something a person should look at."""

    severity: Literal["info", "warning", "critical"]
    at: dt.datetime
    message: str
    run_id: str | None = None
    stage: str | None = None
    problem: problems.Problem | None = None
