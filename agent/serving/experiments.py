"""Owns an experiment: two versions share the requests, and outcomes tell which one is better.

One outcome counts for each key that requests were asked with, the first: those of one key go
together, and the test takes outcomes that each bring something new.
"""

from __future__ import annotations

import uuid
from typing import Literal

from agent.bus import endpoints
from agent.serving import sequences
from protocol import problems, serving

MOST_KNOWN = 100_000
"""Predictions whose outcomes can be told; of more, the oldest are forgotten."""


class UnknownPrediction(endpoints.Refusal):
    """An outcome is of no prediction that is known here."""

    def __init__(self, name: str, prediction: str) -> None:
        message = f"no prediction {prediction[:64]!r} of {name!r} is known"
        hint = f"outcomes are taken while two versions are compared, of the last {MOST_KNOWN:,}"
        problem = problems.Problem("not_found", message, path="$.prediction", hint=hint)
        super().__init__(problem)


class Experiment:
    """Two versions, by the keys of what is deployed."""

    def __init__(
        self,
        name: str,
        terms: serving.Versus,
        before: str,
        candidate: str,
        most: int = MOST_KNOWN,
    ) -> None:
        self.name = name
        self._terms = terms
        self._most = most
        self._before, self._new = before, candidate
        self._seen = {key: sequences.Sequence(terms.alpha / 2) for key in (before, candidate)}
        self._known: dict[str, tuple[str, str]] = {}
        """The version and the key of each prediction."""
        self._told: set[str] = set()
        """The keys whose outcome has come."""

    def answered(self, version: str, key: str) -> str:
        """Take note of a prediction; give its id."""
        made = uuid.uuid4().hex
        self._known[made] = version, key or made
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return made

    def take(self, outcome: serving.Outcome) -> tuple[str, bool]:
        """Take an outcome; give the version, and whether it counts. Raises UnknownPrediction."""
        if outcome.prediction not in self._known:
            raise UnknownPrediction(self.name, outcome.prediction)
        version, key = self._known[outcome.prediction]
        counts = version in self._seen and key not in self._told
        if counts:
            self._told.add(key)
            self._seen[version].see(outcome.value)
        return version, counts

    @property
    def better(self) -> Literal["new", "before"] | None:
        """Say which version is better; None while that is open."""
        return sequences.better(self._seen[self._before], self._seen[self._new])

    def why_open(self, elapsed_s: float) -> str | None:
        """Say why it ends without an answer; None while it goes on."""
        if len(self._told) >= self._terms.max_outcomes:
            return f"{len(self._told)} outcomes leave it open which version is better"
        if elapsed_s >= self._terms.max_s:
            return f"{len(self._told)} outcomes within {elapsed_s:.0f} s leave it open"
        return None

    def measured(self) -> dict[str, float]:
        """Give the means of both versions, and the bounds that hold at any time."""
        found: dict[str, float] = {}
        for prefix, key in (("before_", self._before), ("", self._new)):
            seen = self._seen[key]
            low, high = seen.bounds
            found |= {f"{prefix}outcomes": float(seen.count)}
            found |= {f"{prefix}outcome_low": low, f"{prefix}outcome_high": high}
            if seen.count:
                found[f"{prefix}outcome_mean"] = seen.mean
        return found
