"""Owns the stages of the load: short work whose length and faults are in its parameters."""

from __future__ import annotations

import time

from stages import kit, values


@kit.stage("chaos.nap", cacheable=False)
class Nap(kit.Stage, frozen=True):
    """Take a while."""

    seconds: float = 0.1
    item: int = 0

    def run(self, before: values.Items | None, context: kit.Context) -> values.Items:
        """Sleep, looking up now and then."""
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            context.check()
            time.sleep(0.01)
        return before or values.Items([self.item])


@kit.stage("chaos.items")
class Some(kit.Stage, frozen=True):
    """Give numbers to fan out over."""

    count: int

    def run(self) -> values.Items:
        """Count."""
        return values.Items(list(range(self.count)))


@kit.stage("chaos.sum", cacheable=False)
class Total(kit.Stage, frozen=True):
    """Take what a fan-out gave."""

    def run(self, each: list[values.Items]) -> values.Metrics:
        """Count it."""
        return values.Metrics({"elements": float(len(each))})
