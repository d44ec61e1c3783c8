"""Owns the stages that fuzzed pipelines run: whatever a mutation makes of them, they stay tiny."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec

from stages import kit, values


@kit.stage("fuzz.noop", cacheable=False)
class Noop(kit.Stage, frozen=True):
    """Give a one-element list."""

    item: Any = 0

    def run(self, before: values.Items | None) -> values.Items:
        """Do nothing."""
        return before or values.Items([1])


@kit.stage("fuzz.items", cacheable=False)
class Some(kit.Stage, frozen=True):
    """Give a list of numbers to fan out over."""

    count: Annotated[int, msgspec.Meta(ge=0, le=20)] = 3

    def run(self) -> values.Items:
        """Count."""
        return values.Items(list(range(self.count)))


@kit.stage("fuzz.wait", cacheable=False)
class Wait(kit.Stage, frozen=True):
    """Be at work for a moment, so that commands meet a run that is held."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5

    def run(self, context: kit.Context) -> values.Items:
        """Wait."""
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            context.check()
            time.sleep(0.01)
        return values.Items([1])


@kit.stage("fuzz.fail", cacheable=False)
class Fail(kit.Stage, frozen=True):
    """Fail with the fault of a stage's data."""

    message: str = "as asked"

    def run(self) -> values.Items:
        """Fail."""
        raise kit.DataFault(self.message)
