"""Owns whose a worker is that may outlive its agent: signs of life, claims, and when it ends.

Whoever holds the worker gives a sign now and then. Without one for long the worker finishes what it
is at, keeps the result for a while, and ends. The next owner of the run claims the attempt, with an
epoch that exceeds the one before; from then on the former holder can neither stop nor end it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from agent.run import effects

SIGNS = 4
"""How many signs a holder gives in the time after which it counts as gone."""


class Terms(msgspec.Struct, frozen=True):
    """What holds between a worker and its agent."""

    holder: str
    """Who has it; the same for all workers of an agent."""
    silent_s: float
    """After so long without a sign the holder counts as gone, and an idle worker ends."""
    kept_s: float
    """For so long a result waits for somebody to claim it."""

    @property
    def sign_s(self) -> float:
        """Give how often a sign is due."""
        return self.silent_s / SIGNS


class Custody:
    """A worker's own view of it; shared by the worker's threads."""

    def __init__(self, terms: Terms, clock: Callable[[], float] = time.monotonic) -> None:
        self._terms = terms
        self._clock = clock
        self._lock = threading.Lock()
        self._holder = terms.holder
        self._heard_at = clock()
        self._number = 0
        self._work: effects.Work | None = None
        """The attempt that is worked on, or was last."""
        self._epoch = 0
        """Of whoever holds that attempt."""
        self._ended_at: float | None = None
        """None while it is worked on."""

    def begin(self, number: int, work: effects.Work) -> None:
        """Take note of an attempt."""
        with self._lock:
            self._number, self._work, self._epoch = number, work, work.epoch
            self._ended_at = None

    def end(self) -> None:
        """Take note that the attempt is over."""
        with self._lock:
            self._ended_at = self._clock()

    def sign(self, holder: str) -> bool:
        """Take a sign of life; False for one who holds the worker no longer."""
        with self._lock:
            if holder != self._holder:
                return False
            self._heard_at = self._clock()
            return True

    def at(self) -> effects.Work | None:
        """Give the attempt that can be claimed."""
        with self._lock:
            return self._work

    def claim(self, wanted: effects.Work, holder: str, seal: Callable[[int], bool]) -> int:
        """Give the attempt to the run's next owner, by its number; 0 where it cannot have it.

        `seal` sees to it that nothing else is begun; it is False if something has been.
        """
        with self._lock:
            fits = self._work is not None and same(self._work, wanted)
            if not fits or wanted.epoch <= self._epoch or not seal(self._number):
                return 0
            self._holder, self._epoch = holder, wanted.epoch
            self._heard_at = self._clock()
            return self._number

    def is_over(self) -> bool:
        """Tell whether nobody will want anything of this worker any more."""
        with self._lock:
            terms, ended, heard = self._terms, self._ended_at, self._heard_at
            if self._work is not None and ended is None:
                return False
            # One that gave signs for long after the end has had the result.
            kept = ended is not None and ended > heard - terms.silent_s
            last = max(heard, ended or 0.0)
            return self._clock() > last + (terms.kept_s if kept else terms.silent_s)


def same(one: effects.Work, other: effects.Work) -> bool:
    """Tell whether two describe one attempt, whoever had it begun."""
    return _bare(one) == _bare(other)


def _bare(work: effects.Work) -> effects.Work:
    return msgspec.structs.replace(work, epoch=0, adopt=False, deadline=None)
