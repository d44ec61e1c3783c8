"""Owns stages that do next to nothing, for tests and benchmarks."""

from __future__ import annotations

import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

from stages import kit, values


@kit.stage("sample.noop", cacheable=False)
class Noop(kit.Stage, frozen=True):
    """Do nothing."""

    def run(self) -> values.Report:
        return values.Report({})


@kit.stage("sample.add")
class Add(kit.Stage, frozen=True):
    """Add numbers: the inputs' and its own."""

    number: float = 1.0

    def run(self, numbers: list[values.Metrics] | None) -> values.Metrics:
        found = sum(one.values["sum"] for one in numbers or [])
        return values.Metrics({"sum": found + self.number})


@kit.stage("sample.echo")
class Echo(kit.Stage, frozen=True):
    """Give back a value, and write down that it ran."""

    value: Any = None
    trace: str = ""

    def run(self, context: kit.Context) -> values.Report:
        if self.trace:
            with pathlib.Path(self.trace).open("a") as file:
                file.write(f"{os.getpid()}\n")
        return values.Report(
            {"value": self.value, "seed": context.seed, "lineage": dict(context.lineage)}
        )


@kit.stage("sample.pass")
class Pass(kit.Stage, frozen=True):
    """Give on what comes in."""

    def run(self, report: values.Report) -> values.Report:
        return report


@kit.stage("sample.items")
class MakeItems(kit.Stage, frozen=True):
    """Give a list to fan out over."""

    items: tuple[Any, ...] = (1, 2, 3)

    def run(self) -> values.Items:
        return values.Items(list(self.items))


@kit.stage("sample.sleep", cacheable=False)
class Sleep(kit.Stage, frozen=True):
    """Sleep, and look whether to stop; a deaf one does not look. It may be woken by a file."""

    seconds: float = 1.0
    deaf: bool = False
    wake: str = ""

    def run(self, context: kit.Context) -> values.Report:
        until = time.monotonic() + self.seconds
        if self.deaf:
            context.progress(0.0, "about to sleep")
            time.sleep(self.seconds)
        while (left := until - time.monotonic()) > 0:
            context.progress(1 - left / self.seconds, "asleep", left=left)
            time.sleep(min(0.02, left))
            if self.wake and pathlib.Path(self.wake).exists():
                break
        return values.Report({"slept": self.seconds})


@kit.stage("sample.slow_add")
class SlowAdd(kit.Stage, frozen=True):
    """Give a number after a while, writing down that it ran; fail where told to."""

    number: float = 1.0
    seconds: float = 0.3
    trace: str = ""
    fail_once: bool = False

    def run(self, context: kit.Context) -> values.Metrics:
        trace = pathlib.Path(self.trace)
        earlier = trace.read_text() if trace.exists() else ""
        trace.write_text(f"{earlier}ran\n")
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            context.check()
            time.sleep(0.01)
        if self.fail_once and not earlier:
            raise kit.DataFault("the first one fails")
        return values.Metrics({"sum": self.number})


@kit.stage("sample.fail", cacheable=False)
class Fail(kit.Stage, frozen=True):
    """Fail in a chosen way."""

    how: str = "code"
    times: int = 0
    """With `trace`: how often to fail before it works."""
    trace: str = ""

    def run(self) -> values.Report:
        if self.trace and self._count() > self.times:
            return values.Report({})
        print("about to fail")  # noqa: T201 - what it prints is to be found again
        logging.getLogger("sample").warning("logged before failing")
        raise_as(self.how)
        raise AssertionError

    def _count(self) -> int:
        with pathlib.Path(self.trace).open("a+") as file:
            file.write("x")
            file.seek(0)
            return len(file.read())


def raise_as(how: str) -> None:
    match how:
        case "data":
            raise kit.DataFault("no such column", hint="choose another", path="$.with.column")
        case "transient":
            raise kit.Transient("try later")
        case "not_allowed":
            raise kit.NotAllowed("not that host")
        case "import":
            import no_such_library  # noqa: F401
        case "memory":
            raise MemoryError
        case "connection":
            raise ConnectionResetError("gone")
        case "disk":
            raise OSError(28, "No space left on device")
        case "exit":
            sys.exit(3)
    try:
        _ = {}["missing"]
    except KeyError as error:
        raise RuntimeError("broken") from error


@kit.stage("sample.allocate", cacheable=False)
class Allocate(kit.Stage, frozen=True):
    """Take memory."""

    bytes: int = 1

    def run(self) -> values.Metrics:
        block = bytearray(self.bytes)
        return values.Metrics({"taken": float(len(block))})


@kit.stage("sample.die", cacheable=False)
class Die(kit.Stage, frozen=True):
    """Kill the own process, as a segmentation fault or the kernel would."""

    def run(self) -> values.Report:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        return values.Report({})


@kit.stage("sample.spawn", cacheable=False)
class Spawn(kit.Stage, frozen=True):
    """Start a child, write its pid to a file, and wait for it."""

    trace: str

    def run(self) -> values.Report:
        child = subprocess.Popen(["sleep", "120"])
        pathlib.Path(self.trace).write_text(str(child.pid))
        child.wait()
        return values.Report({})


@kit.stage("sample.tell", cacheable=False)
class Tell(kit.Stage, frozen=True):
    """Note facts and progress, over some time."""

    facts: int = 3
    seconds: float = 0.0

    def run(self, context: kit.Context) -> values.Report:
        for number in range(self.facts):
            context.note("registered", number=number)
            context.progress(number / self.facts, f"fact {number}")
            time.sleep(self.seconds / self.facts)
        return values.Report({})


class Both(NamedTuple):
    """Two outputs, of which one may be missing."""

    metrics: values.Metrics
    report: values.Report


@kit.stage("sample.numbers", cacheable=False)
class Numbers(kit.Stage, frozen=True):
    """Give metrics of which some are not finite."""

    def run(self) -> Both:
        numbers = {"good": 0.5, "lost": float("nan"), "far": float("inf")}
        return Both(values.Metrics(numbers), values.Report({}))


@kit.stage("sample.outside")
class Outside(kit.Stage, frozen=True):
    """Read a file that is not an input."""

    file: str
    known: bool = True

    def fingerprint(self, context: kit.Context) -> str | None:  # noqa: ARG002
        return pathlib.Path(self.file).read_text() if self.known else None

    def run(self) -> values.Report:
        return values.Report({"text": pathlib.Path(self.file).read_text()})
