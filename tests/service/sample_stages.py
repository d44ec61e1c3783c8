"""Owns stages that write down what happens to them, for the tests of the running agent."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import time
from typing import Any

from stages import kit, values


def write(trace: str, line: str) -> None:
    """Add a line that another process may read at any time."""
    with pathlib.Path(trace).open("a") as file:
        file.write(f"{line}\n")


@kit.stage("service.work", cacheable=False)
class Work(kit.Stage, frozen=True):
    """Work for a while, writing down that it began, in which process, and how it ended."""

    trace: str
    name: str = "work"
    seconds: float = 0.0
    deaf: bool = False
    until: str = ""
    """A file to wait for instead."""

    def run(self, report: values.Report | None, context: kit.Context) -> values.Report:  # noqa: ARG002 - it only gives the order
        write(self.trace, f"{self.name} began {os.getpid()}")
        try:
            self._work(context)
        except kit.Cancelled:
            write(self.trace, f"{self.name} stopped")
            raise
        write(self.trace, f"{self.name} ended")
        return values.Report({"by": self.name})

    def _work(self, context: kit.Context) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end or (self.until and not pathlib.Path(self.until).exists()):
            if not self.deaf:
                context.check()
            time.sleep(0.005)


@kit.stage("service.deadly", cacheable=False)
class Deadly(kit.Stage, frozen=True):
    """End the process it runs in, until a file says that this is mended."""

    trace: str
    mended: str

    def run(self) -> values.Report:
        write(self.trace, "boom")
        if not pathlib.Path(self.mended).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return values.Report({})


@kit.stage("service.ship", effects=True)
class Ship(kit.Stage, frozen=True):
    """Change something outside: write it down."""

    trace: str

    def run(self, report: values.Report, context: kit.Context) -> values.Report:
        write(self.trace, f"shipped began {context.idempotency_key}")
        return report


@kit.stage("service.tell", cacheable=False)
class Tell(kit.Stage, frozen=True):
    """Give what the context says."""

    def run(self, context: kit.Context) -> values.Report:
        return values.Report({"traceparent": context.traceparent, "key": context.idempotency_key})


@kit.stage("service.each", cacheable=False)
class Each(kit.Stage, frozen=True):
    """Work on one element; some of them are bad until a file says that they are mended."""

    trace: str
    item: Any = None
    bad: tuple[Any, ...] = ()
    mended: str = ""
    seconds: float = 0.0

    def run(self) -> values.Metrics:
        write(self.trace, f"{self.item}")
        time.sleep(self.seconds)
        if self.item in self.bad and not (self.mended and pathlib.Path(self.mended).exists()):
            raise kit.DataFault(f"element {self.item} is bad")
        return values.Metrics({"item": float(self.item)})


@kit.stage("service.gather", cacheable=False)
class Gather(kit.Stage, frozen=True):
    """Take what a fan-out gave."""

    def run(self, numbers: list[values.Metrics]) -> values.Metrics:
        found = [one.values["item"] for one in numbers]
        return values.Metrics({"count": float(len(found)), "sum": sum(found)})


@kit.stage("service.double", cacheable=False)
class Double(kit.Stage, frozen=True):
    """Double a number."""

    def run(self, number: values.Metrics) -> values.Metrics:
        return values.Metrics({"item": 2 * number.values["item"]})


@kit.stage("service.picky", cacheable=False)
class Picky(kit.Stage, frozen=True):
    """Fail unless a file is there."""

    file: str

    def run(self, report: values.Report) -> values.Report:
        if not pathlib.Path(self.file).exists():
            raise kit.DataFault("the file is missing")
        return report


@kit.stage("service.burn", cacheable=False)
class Burn(kit.Stage, frozen=True):
    """Use a CPU for a while."""

    def run(self) -> values.Report:
        end = time.thread_time() + 0.15
        while time.thread_time() < end:
            pass
        return values.Report({})


@kit.stage("service.wide", cacheable=False)
class Wide(kit.Stage, frozen=True):
    """Give a table of many columns with long names."""

    columns: int = 500

    def run(self) -> values.Table:
        import pyarrow as pa

        names = [f"{number:0>60}" for number in range(self.columns)]
        return values.Table(pa.table({name: [1] for name in names}))


@kit.stage("service.points")
class Points(kit.Stage, frozen=True):
    """Give points of two classes that cannot be told apart."""

    rows: int = 400

    def run(self, context: kit.Context) -> values.Table:
        import numpy as np
        import pyarrow as pa

        chance = np.random.default_rng(context.seed)
        columns = {f"x{number}": chance.normal(size=self.rows) for number in range(10)}
        return values.Table(pa.table(columns | {"target": chance.integers(0, 2, self.rows)}))


class Unruly(BaseException):
    """Not even an Exception."""


@kit.stage("service.crooked", cacheable=False)
class Crooked(kit.Stage, frozen=True):
    """Break the rules of a stage in a chosen way."""

    how: str

    def run(self, context: kit.Context) -> values.Report:
        match self.how:
            case "raises BaseException":
                raise Unruly("out of order")
            case "raises KeyboardInterrupt":
                raise KeyboardInterrupt
            case "raises CancelledError":
                raise asyncio.CancelledError
            case "returns text":
                return "no value"
            case "returns nothing":
                return None
            case "returns another kind":
                return values.Metrics({"a": 1.0})
            case "returns surrogates":
                return values.Report({"text": "\udcff"})
            case "notes very much":
                context.note("registered", model="m" * 2_000_000, version="1")
                return values.Report({})
            case "tells surrogates":
                context.progress(0.5, "\udcff", **{"\udcff": 1.0})
                context.note("registered", model="\udcff", version="1")
        print("\udcff\ud800")  # noqa: T201 - what cannot be written as UTF-8 is the point
        os.write(1, b"\xff\xfe\n")
        raise kit.DataFault("bad text \udcff", hint="\ud800")


@kit.stage("service.grow", cacheable=False)
class Grow(kit.Stage, frozen=True):
    """Make a report of a size."""

    size: int

    def run(self) -> values.Report:
        return values.Report({"text": "x" * self.size})
