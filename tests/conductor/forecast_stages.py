"""Owns stages of the kinds that a forecast has to tell apart."""

from __future__ import annotations

import pathlib

from stages import kit, values


@kit.stage("told.add", libraries=("msgspec",))
class Add(kit.Stage, frozen=True):
    """Add a number to what comes in, and write down that it ran."""

    number: float = 0.0
    trace: str = ""

    def run(self, base: values.Metrics | None) -> values.Metrics:
        if self.trace:
            with pathlib.Path(self.trace).open("a") as file:
                file.write("ran\n")
        found = self.number + (base.values["sum"] if base else 0.0)
        return values.Metrics({"sum": found}, {"padding": "x" * 1100})  # stored, not inlined


@kit.stage("told.total")
class Total(kit.Stage, frozen=True):
    """Add up a list."""

    def run(self, parts: list[values.Metrics]) -> values.Metrics:
        return values.Metrics({"sum": sum(part.values["sum"] for part in parts)})


@kit.stage("told.list")
class List(kit.Stage, frozen=True):
    """Give a list to fan out over."""

    numbers: list[float] = []

    def run(self) -> values.Items:
        return values.Items(self.numbers)


@kit.stage("told.read")
class Read(kit.Stage, frozen=True):
    """Read a number from a file."""

    file: str
    known: bool = True

    def fingerprint(self, context: kit.Context) -> str | None:  # noqa: ARG002 - the contract
        return pathlib.Path(self.file).read_text() if self.known else None

    def run(self) -> values.Metrics:
        return values.Metrics({"sum": float(pathlib.Path(self.file).read_text())})


@kit.stage("told.clock", cacheable=False)
class Clock(kit.Stage, frozen=True):
    """Be another each time."""

    def run(self) -> values.Metrics:
        return values.Metrics({"sum": 0.0})


@kit.stage("told.ship", effects=True)
class Ship(kit.Stage, frozen=True):
    """Change something outside."""

    def run(self, base: values.Metrics) -> values.Report:  # noqa: ARG002 - a port
        return values.Report({})


@kit.stage("told.train", delegated=True)
class Train(kit.Stage, frozen=True):
    """Be carried out by a specialist."""

    def run(self, base: values.Metrics) -> values.Report:
        return values.Report(dict(base.values))


@kit.stage("told.fail")
class Fail(kit.Stage, frozen=True):
    """Fail."""

    def run(self) -> values.Metrics:
        raise kit.DataFault("no")
