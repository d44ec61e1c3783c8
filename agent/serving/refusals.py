"""Owns why a serving host does not do what it is told, or not yet."""

from __future__ import annotations

from agent.bus import endpoints
from agent.serving import desired
from protocol import problems


class NotYet(endpoints.Refusal):
    """The model is to be served, or may be: the host has just started."""

    def __init__(self, name: str) -> None:
        message = f"model {name[:64]!r} is not ready yet"
        super().__init__(problems.Problem("unavailable", message, retryable=True))


class BusAway(endpoints.Refusal):
    """Nothing can be changed without the bus."""

    def __init__(self) -> None:
        super().__init__(problems.Problem("unavailable", "the bus is away", retryable=True))


class Conflict(endpoints.Refusal):
    """Somebody else has changed what is to be served of the model."""

    def __init__(self, changed: desired.Changed) -> None:
        super().__init__(problems.Problem("conflict", str(changed), retryable=True))


class Superseded(endpoints.Refusal):
    """Another owner of the run deploys this now, or has decided not to."""

    def __init__(self, epoch: int, newer: int) -> None:
        message = f"the run's owner of epoch {newer} deploys, not that of {epoch}"
        super().__init__(problems.Problem("conflict", message))
        self.newer = newer


class NoSuchRun(endpoints.Refusal):
    """Nobody can own a run that there is not."""

    def __init__(self, run_id: str) -> None:
        message = f"there is no run {run_id!r}"
        super().__init__(problems.Problem("not_found", message, path="$.run_id"))


class NotDeployed(endpoints.Refusal):
    """There is nothing to take away."""

    def __init__(self, name: str) -> None:
        message = f"no model {name!r} is deployed"
        super().__init__(problems.Problem("not_found", message, path="$.name"))


class NothingBefore(endpoints.Refusal):
    """There is no version to go back to."""

    def __init__(self, name: str) -> None:
        message = f"no version of {name!r} has served before the one that serves"
        super().__init__(problems.Problem("not_found", message, path="$.name"))


class Stopped(endpoints.Refusal):
    """Somebody has stopped the deployment."""

    def __init__(self, what: str, by: str, reason: str = "") -> None:
        after = f": {reason}" if reason else ""
        super().__init__(problems.Problem("denied", f"{what} by {by or 'nobody known'}{after}"))


class Halted(endpoints.Refusal):
    """The deployment was stopped."""

    def __init__(self, key: str) -> None:
        super().__init__(problems.Problem("cancelled", f"deployment {key!r} was stopped"))
