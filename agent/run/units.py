"""Owns what is remembered of a stage, and of each element of a fanned-out stage."""

from __future__ import annotations

import datetime as dt
import math

from protocol import artifacts, commands, problems


class Unit:
    """Something with attempts: a stage, or one element of it."""

    __slots__ = (
        "attempt",
        "attempt_at",
        "cached",
        "duration_s",
        "element",
        "ended_at",
        "failures",
        "memory",
        "metrics",
        "next_at",
        "outputs",
        "preempted",
        "problem",
        "queued",
        "stage",
        "started_at",
        "state",
    )

    def __init__(self, stage: int, element: int | None, attempt: int = 0) -> None:
        self.stage = stage
        self.element = element
        self.state = "pending"
        self.attempt = attempt
        """The number of the last attempt; it only grows, whatever is resumed."""
        self.forget()
        self.queued = False
        """It lies in the queue of what can start."""

    def forget(self) -> None:
        """Go back to before the first attempt, keeping the count of attempts."""
        self.failures = 0
        """Attempts that count against the retry policy."""
        self.preempted = 0
        self.memory: int | None = None
        self.outputs: dict[str, artifacts.Output] = {}
        self.metrics: dict[str, float] = {}
        self.duration_s: float | None = None
        self.cached = False
        self.problem: problems.Problem | None = None
        self.started_at: dt.datetime | None = None
        self.attempt_at: dt.datetime | None = None
        self.next_at: dt.datetime | None = None
        self.ended_at: dt.datetime | None = None


class StageRun(Unit):
    """A stage of a run; with `units` where it is fanned out."""

    __slots__ = (
        "approved",
        "denied",
        "done",
        "expires_at",
        "failed",
        "generation",
        "in_hand",
        "next_element",
        "quarantined",
        "reason",
        "refresh",
        "stood_in",
        "succeeded",
        "units",
        "waiting_on",
    )

    def __init__(self, stage: int, waiting_on: int) -> None:
        super().__init__(stage, None)
        self.waiting_on = waiting_on
        """How many of the stages it depends on have not ended in a way that lets it go on."""
        self.units: list[Unit] | None = None
        self.generation = 0
        """Grows when a resume changes what goes in, so that an idempotency key is not reused."""
        self.refresh = False
        """Somebody asked for it to run again: its cached result is not wanted."""
        self.restart()

    def restart(self) -> None:
        """Forget what the last pass decided; elements are kept."""
        self.forget()
        self.approved = False
        self.denied: tuple[str, str] | None = None
        self.expires_at: dt.datetime | None = None
        self.reason: str | None = None
        self.stood_in = False
        """It failed, and its fallback answers for it."""
        self.quarantined: list[commands.ElementFailure] = []
        self.succeeded = 0
        self.failed = 0
        self.done = 0
        self.next_element = 0
        self.in_hand = 0
        """Elements that were queued and have not ended; waiting for a retry counts."""

    def open_fan(self, width: int) -> None:
        """Make the elements; those of an interrupted pass that succeeded are kept."""
        if self.units is None or len(self.units) != width:
            base = max((unit.attempt for unit in self.units or ()), default=0)
            self.units = [Unit(self.stage, i, base) for i in range(width)]
        self.succeeded = sum(unit.state == "succeeded" for unit in self.units)
        self.failed = 0
        self.done = self.succeeded
        self.next_element = 0
        self.in_hand = 0

    def quorum(self, share: float) -> int:
        """Say how many elements must succeed."""
        return math.ceil(share * len(self.units or ()) - 1e-9)
