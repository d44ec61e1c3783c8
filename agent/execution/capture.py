"""Owns what is observed of an attempt: the tail of what it printed, its CPU time, its memory."""

from __future__ import annotations

import contextlib
import io
import logging
import pathlib
import resource
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from agent.execution import lines
from protocol import events

TAIL_CHARS = 64 * 1024
SHORT_S = 0.02
"""Of an attempt that is shorter, the memory is not measured."""


class Tail(io.TextIOBase):
    """A text stream that keeps the last of what is written to it."""

    def __init__(self, limit: int = TAIL_CHARS) -> None:
        self._limit = limit
        self._text = ""

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Take text; the oldest goes where there is too much."""
        self._text = (self._text + text)[-self._limit :]
        return len(text)

    def text(self) -> str:
        """Give what was kept."""
        return self._text


class Observer(Protocol):
    """Observes one attempt."""

    def watching(self, tail: Tail) -> contextlib.AbstractContextManager[None]:
        """Send what the attempt prints and logs to a tail while the context lasts."""

    def usage(self) -> events.Usage:
        """Say what was used since the observer was made."""


class OfProcess:
    """Observes an attempt that has a process to itself."""

    def __init__(self) -> None:
        _reset_peak()
        self._began = time.monotonic()
        self._cpu = _process_cpu()

    @contextlib.contextmanager
    def watching(self, tail: Tail) -> Iterator[None]:
        """Redirect standard output and error, and copy what is logged."""
        with (
            contextlib.redirect_stdout(tail),
            contextlib.redirect_stderr(tail),
            _logging_into(tail),
        ):
            yield

    def usage(self) -> events.Usage:
        """Count CPU time with that of ended children, and the highest resident memory.

        Looking the memory up would double the time of an attempt that does next to nothing.
        """
        short = time.monotonic() - self._began < SHORT_S
        return events.Usage(_process_cpu() - self._cpu, 0 if short else _peak())


class OfThread:
    """Observes an attempt that shares its process: prints and memory are everybody's."""

    def __init__(self) -> None:
        self._cpu = time.thread_time()

    @contextlib.contextmanager
    def watching(self, tail: Tail) -> Iterator[None]:
        """Copy what this thread logs."""
        with _logging_into(tail, threading.get_ident()):
            yield

    def usage(self) -> events.Usage:
        """Count this thread's CPU time."""
        return events.Usage(time.thread_time() - self._cpu)


@contextlib.contextmanager
def _logging_into(tail: Tail, thread: int | None = None) -> Iterator[None]:
    handler = logging.StreamHandler(tail)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    if thread is None:
        handler.addFilter(lambda record: record.threadName != lines.EAR)
    else:
        handler.addFilter(lambda record: record.thread == thread)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def _process_cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def _reset_peak() -> None:
    """Forget the highest memory of earlier attempts (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as refs:  # noqa: PTH123 - the fast way
        refs.write("5")


def _peak() -> int:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
