"""Owns which nodes a cluster has that grows and shrinks by itself, and who fits on which."""

from __future__ import annotations

import collections
from collections.abc import Iterable

from agent.execution import hands


class Nodes:
    """Knows nothing of any other cluster: there, Ray is to say who works where."""

    def __init__(self) -> None:
        self.home = ""
        """The node that stays. Workers are hired when they are needed; idle ones elsewhere go, so
        that their nodes can."""
        self.sizes: dict[str, float] = {}
        """The CPUs of each."""

    def is_away(self, hand: hands.Hand) -> bool:
        """Tell whether a worker is on a node that may be taken away."""
        return bool(self.home) and hand.node != self.home

    def fits(self, hand: hands.Hand, cpus: float) -> bool:
        """Tell whether a worker is on a node that is large enough, if any is."""
        if hand.shape != hands.COMMON or not self.sizes:
            return True
        if not hand.node:
            return cpus <= min(self.sizes.values())
        return self.sizes.get(hand.node, 0.0) >= min(cpus, max(self.sizes.values()))

    def roomiest(self, cpus: float, workers: Iterable[hands.Hand]) -> str:
        """Name the node that has most room for one more of so many CPUs, if any is known."""
        least = min(cpus, max(self.sizes.values(), default=0.0))
        there = collections.Counter(hand.node for hand in workers)
        fitting = [node for node, size in self.sizes.items() if size >= least]
        return min(fitting, key=lambda node: there[node] / self.sizes[node], default="")
