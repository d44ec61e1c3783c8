"""Owns stages that do nothing, so that what is measured is everything else."""

from __future__ import annotations

import time

from stages import kit, values


@kit.stage("bench.noop")
class Noop(kit.Stage, frozen=True):
    """Give a one-element list."""

    item: int = 0

    def run(self, before: values.Items | None) -> values.Items:
        """Do nothing."""
        return before or values.Items([self.item])


@kit.stage("bench.items")
class Some(kit.Stage, frozen=True):
    """Give a list of numbers to fan out over."""

    count: int

    def run(self) -> values.Items:
        """Count."""
        return values.Items(list(range(self.count)))


@kit.stage("bench.wait", cacheable=False)
class Wait(kit.Stage, frozen=True):
    """Be at work until stopped."""

    def run(self, context: kit.Context) -> values.Items:
        """Wait."""
        while True:
            context.check()
            time.sleep(0.01)
