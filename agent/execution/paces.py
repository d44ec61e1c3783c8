"""Owns how long the stages of each type take, as far as that decides who may wait behind whom."""

from __future__ import annotations

from agent.execution import base
from stages import registry

QUICK_S = 0.005


class Paces:
    """Remembers which types of stage ended quickly of late."""

    def __init__(self) -> None:
        self._taken: dict[str, float] = {}
        """Seconds, by type: a longer one counts at once, a shorter one by halves."""

    def note(self, use: str, outcome: base.Outcome) -> None:
        """Learn from an attempt; one that failed says nothing of the next."""
        if not isinstance(outcome, base.Succeeded):
            self._taken.pop(use, None)
            return
        last = self._taken.get(use, outcome.duration_s)
        self._taken[use] = max(outcome.duration_s, (last + outcome.duration_s) / 2)

    def is_quick(self, use: str) -> bool:
        """Say whether an attempt may wait in a busy worker for its turn.

        Should the worker die then, nobody can tell for sure whether the attempt had begun; so a
        stage that changes something outside never waits there.
        """
        taken = self._taken.get(use)
        return taken is not None and taken < QUICK_S and not registry.get(use).effects
