"""Owns the judgement of a run that is lost again and again: is it the run that ends its agents?

The law: a journal tells when a run was taken, and what came to an end after that. A hold that was
neither given back in order nor brought anything to an end is a loss. When an agent goes, all that
it held is lost at once, so one loss says little. Runs that were lost twice are begun one after the
other: who ends the agent then was held for a moment, the others for long or not at all, and only
short holds count in full.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec

from protocol import events, problems

LONG = dt.timedelta(seconds=60)
"""A run that was held for so long did not bring its agent down at once."""
WHOLE, PART = 10, 1
"""What a short hold counts, and a long one: who ends its agents slowly is to be found too."""
SUSPECT = 2

_TAKEN = events.RunStarted | events.RunRecovered
_BEGUN = (
    events.StageStarted,
    events.StageDelegated,
    events.StageRegistered,
    events.StageShifted,
    events.StageDeployed,
)
"""Comes again with each hold, and so tells of no progress."""


class Losses(msgspec.Struct, frozen=True):
    """When a run was taken and lost, time after time, and nothing of it came to an end."""

    holds: tuple[tuple[dt.datetime, dt.datetime | None], ...] = ()
    """From when to when, the last first; None is until now."""

    def weight(self, now: dt.datetime) -> int:
        """Give how much speaks against the run."""
        return sum(PART if (until or now) - since >= LONG else WHOLE for since, until in self.holds)

    def suspect(self, now: dt.datetime) -> bool:
        """Tell whether the run may be what ends its agents."""
        return self.weight(now) >= SUSPECT * WHOLE

    def problem(
        self, now: dt.datetime, limit: int, at_work: Sequence[str]
    ) -> problems.Problem | None:
        """Give why the run is ended, once enough speaks against it."""
        if self.weight(now) < limit * WHOLE:
            return None
        what = f" with {', '.join(at_work)} at work" if at_work else ""
        return problems.Problem(
            code="worker_lost",
            message=f"{len(self.holds)} agents in a row were lost{what}: nothing came to an end",
            hint="see what it does to its agent; `mlpm resume` lets it go on",
        )


class Trials:
    """Sees to it that a suspect is begun alone, so that it shows what it does."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, bool]] = {}

    def may_begin(self, run_id: str, time: float, *, suspect: bool) -> bool:
        """Begin a run that was lost before, unless another such one was begun a moment ago.

        What was lost once stays out of a suspect's way alone: most agents that are lost were not
        ended by any run, and their runs are to go on at once.
        """
        others = [each for name, each in self._begun.items() if name != run_id and each[0] > time]
        if others and (suspect or any(suspected for _, suspected in others)):
            return False
        self._begun[run_id] = time + LONG.total_seconds(), suspect
        return True

    def over(self, run_id: str) -> None:
        """Take note that a run is held no longer."""
        self._begun.pop(run_id, None)


def find(commits: Sequence[events.Commit]) -> Losses:
    """Find the losses at the end of a journal; it is read no further back than that."""
    holds: list[tuple[dt.datetime, dt.datetime | None]] = []
    until, released = None, False
    for commit in reversed(commits):
        released = released or commit.released
        for fact in reversed(commit.events):
            if isinstance(fact, _TAKEN):
                if not released:
                    holds.append((fact.at, until))
                until, released = fact.at, False
            elif not isinstance(fact, _BEGUN):
                return Losses(tuple(holds))
    return Losses(tuple(holds))
