"""Owns the contract with the Swarm-Orchestrator: assignments, reports, presence and control."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from protocol import artifacts, events, problems, wire


class StageAssignment(wire.Command, frozen=True):
    """One stage for any capable agent; delivered at least once, reported exactly once."""

    assignment_id: wire.Id
    use: str
    params: dict[str, Any] = {}
    inputs: dict[str, artifacts.Output] = {}
    attempt: int = 1
    deadline: dt.datetime | None = None
    run_id: str | None = None
    stage: str | None = None
    epoch: int = 0


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


class AgentCard(wire.Fact, frozen=True):
    """Who an agent is and what it can take on now."""

    agent: str
    role: str
    version: str
    capabilities: list[str]
    capacity: int
    load: int
    state: Literal["ready", "draining", "stopped"]
    at: dt.datetime


class AgentControl(wire.Command, frozen=True):
    """Ask an agent to drain, to take work again, or to change its capacity."""

    action: Literal["drain", "undrain", "set_capacity"]
    capacity: int | None = None


class Alert(wire.Fact, frozen=True):
    """Something a person should look at."""

    severity: Literal["info", "warning", "critical"]
    at: dt.datetime
    message: str
    run_id: str | None = None
    stage: str | None = None
    problem: problems.Problem | None = None
