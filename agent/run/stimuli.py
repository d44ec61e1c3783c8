"""Owns what can happen to a run: plain data, fed to the core one at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from agent.run import effects
from protocol import artifacts, events, problems


class Taken(msgspec.Struct, frozen=True):
    """An agent holds the run's ticket and has folded its journal; `epoch` exceeds all before it."""

    owner: str
    epoch: int
    problem: problems.Problem | None = None
    """Why it is taken only to be ended."""
    kept: frozenset[effects.WorkKey] = frozenset()
    """Attempts of the former owner that somebody is at yet: they go on."""


class WorkBegan(msgspec.Struct, frozen=True):
    """An attempt got its place and is at work: its time limit counts from here."""

    key: effects.WorkKey


class WorkSucceeded(msgspec.Struct, frozen=True):
    """An attempt ended well and its outputs are durable."""

    key: effects.WorkKey
    outputs: dict[str, artifacts.ArtifactRef] = {}
    metrics: dict[str, float] = {}
    duration_s: float = 0.0
    usage: events.Usage | None = None
    cached: bool = False
    cache_key: str | None = None
    code_version: str = ""


class WorkFailed(msgspec.Struct, frozen=True):
    """An attempt failed; `problem.code` and `problem.retryable` decide what follows."""

    key: effects.WorkKey
    problem: problems.Problem
    log: str = ""


class WorkStopped(msgspec.Struct, frozen=True):
    """An attempt that was to be stopped has stopped: the proof."""

    key: effects.WorkKey
    how: str
    """`asked`, `forced` or `not_started`."""
    where: str = ""


class WorkNoted(msgspec.Struct, frozen=True):
    """An attempt tells a fact for the journal: `delegated`, `registered`, `deployed`…."""

    key: effects.WorkKey
    fact: str
    details: dict[str, Any]


class TimerFired(msgspec.Struct, frozen=True):
    """A timer that the core set has come due."""

    name: str


class CancelAsked(msgspec.Struct, frozen=True):
    """Somebody wants the run stopped."""

    by: str
    reason: str = ""
    grace_s: float = 5.0
    signed_by: str | None = None


class ResumeAsked(msgspec.Struct, frozen=True):
    """Somebody wants a failed or cancelled run to go on."""

    by: str
    from_stage: str | None = None
    params: dict[str, dict[str, Any]] = {}
    backfill: bool = False
    code_version: str = ""
    signed_by: str | None = None


class Answered(msgspec.Struct, frozen=True):
    """Somebody answered a gate."""

    stage: str
    approved: bool
    by: str
    comment: str = ""
    signed_by: str | None = None


Stimulus = (
    Taken
    | WorkBegan
    | WorkSucceeded
    | WorkFailed
    | WorkStopped
    | WorkNoted
    | TimerFired
    | CancelAsked
    | ResumeAsked
    | Answered
)
