"""Owns the contract of an executor: a place where one attempt of a stage can be run and stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from agent.run import effects
from protocol import artifacts, events, problems


class Succeeded(msgspec.Struct, frozen=True):
    """The outputs are durable in the artifact store."""

    outputs: dict[str, artifacts.ArtifactRef]
    metrics: dict[str, float] = {}
    duration_s: float = 0.0
    usage: events.Usage | None = None
    cached: bool = False
    cache_key: str | None = None
    code_version: str = ""
    """Digest of the stage's code."""


class Failed(msgspec.Struct, frozen=True):
    """The attempt failed; the problem says why and whether trying again may help."""

    problem: problems.Problem
    log: str = ""


class Halted(msgspec.Struct, frozen=True):
    """The attempt was stopped by `stop`; nothing of it is running any more."""

    how: str
    """`asked`, `forced` or `not_started`."""
    where: str = ""
    """The worker or specialist that ran it, as `pid 123 on node-1`."""


Outcome = Succeeded | Failed | Halted


class Watcher(Protocol):
    """What an attempt tells while it runs."""

    def began(self) -> None:
        """Take note that it got its place and is at work; its time limit counts from here."""

    def progress(self, fraction: float | None, message: str, metrics: Mapping[str, float]) -> None:
        """Take a sign of life; it is passed on to operators and not stored."""

    def note(self, fact: str, details: Mapping[str, Any]) -> None:
        """Take a fact for the journal: `delegated`, `registered`, `deployed`, `fallback_used`."""


class Executor(Protocol):
    """Runs attempts. Failures are outcomes, not exceptions; an exception is a defect of ours."""

    async def run(self, work: effects.Work, watcher: Watcher) -> Outcome:
        """Run one attempt to its end."""

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Ask (or with `force` make) the attempt stop; its `run` then returns Halted.

        An unknown key is ignored: the attempt has just ended.
        """

    async def close(self) -> None:
        """Stop everything and let the resources go."""
