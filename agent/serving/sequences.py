"""Owns the test of two versions by their outcomes: it holds whenever one looks. Nothing awaits.

For each version a confidence sequence for the mean of its outcomes, all between 0 and 1: with
probability 1 - alpha the true mean is inside at every moment, so that nobody has to decide
beforehand when to look. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", JRSS B 86 (2024), theorem 2 (predictable plug-in empirical Bernstein).
"""

from __future__ import annotations

import math
from typing import Literal

_MOST = 0.5
"""Of a bet; the theorem takes any constant below 1, and recommends a half."""


class Sequence:
    """The mean of what was seen, between bounds that hold at any time."""

    def __init__(self, alpha: float) -> None:
        self.count = 0
        self._wide = math.log(2 / alpha)
        self._bets = self._won = self._paid = 0.0
        self._sum, self._squares = 0.5, 0.25
        """As if one outcome of a half had been seen, with a variance of a quarter."""

    @property
    def mean(self) -> float:
        """Give the plain mean; NaN of nothing."""
        return (self._sum - 0.5) / self.count if self.count else math.nan

    @property
    def bounds(self) -> tuple[float, float]:
        """Give the bounds of the true mean."""
        if not self.count:
            return 0.0, 1.0
        centre, wide = self._won / self._bets, (self._wide + self._paid) / self._bets
        return max(0.0, centre - wide), min(1.0, centre + wide)

    def see(self, value: float) -> None:
        """Take one more outcome; the bet on it is made of those before."""
        guess, variance = self._sum / (self.count + 1), self._squares / (self.count + 1)
        self.count += 1
        spread = variance * self.count * math.log(1 + self.count)
        bet = min(math.sqrt(2 * self._wide / spread), _MOST)
        self._bets += bet
        self._won += bet * value
        # 4 (x - guess)² times ψ(bet) = (-log(1 - bet) - bet) / 4
        self._paid += (value - guess) ** 2 * (-math.log1p(-bet) - bet)
        self._sum += value
        self._squares += (value - self._sum / (self.count + 1)) ** 2


def better(before: Sequence, new: Sequence) -> Literal["new", "before"] | None:
    """Say which version is better; None while that is open. Each sequence has half of alpha."""
    if new.bounds[0] > before.bounds[1]:
        return "new"
    if before.bounds[0] > new.bounds[1]:
        return "before"
    return None
