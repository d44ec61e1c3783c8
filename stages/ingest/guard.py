"""Owns the bounds of one read from a database: rows, bytes, time, and the run's cancellation."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

from stages import kit, sources

_LOOK_EVERY_S = 0.05


class TookTooLong(kit.StageFault):
    """A read did not end within its time."""

    code: ClassVar[str] = "timeout"

    def __init__(self, name: str, after_s: float) -> None:
        super().__init__(
            f"reading {sources.shown(name)!r} was given up after {after_s:g} s",
            hint="ask for less, or raise timeout_s",
            path="$.timeout_s",
        )
        self.after_s = after_s


class Guard:
    """Watches over a read: what is taken is counted, and a query that goes on is stopped."""

    def __init__(
        self, name: str, context: kit.Context, *, timeout_s: float, max_rows: int | None = None
    ) -> None:
        self.name = name
        self.max_rows = max_rows
        self.rows = 0
        self.truncated = False
        """There were more rows than were asked for."""
        self._bytes = 0
        self._context = context
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s
        self._reason: kit.StageFault | None = None

    def left_s(self) -> float:
        """Say how much time is left, and at least a millisecond."""
        return max(0.001, self._end - time.monotonic())

    def check(self) -> None:
        """Raise Cancelled or TookTooLong."""
        self._context.check()
        if time.monotonic() >= self._end:
            raise TookTooLong(self.name, self._timeout_s)

    def size(self, chunk: int) -> int:
        """Say how many rows to ask for: one more than are wanted, to know if there are more."""
        return chunk if self.max_rows is None else min(chunk, self.max_rows - self.rows + 1)

    def wanted(self, rows: int) -> int:
        """Say how many of so many rows to take; note if some are left."""
        room = rows if self.max_rows is None else max(0, self.max_rows - self.rows)
        self.truncated = self.truncated or rows > room
        return min(rows, room)

    def took(self, rows: int, size: int) -> None:
        """Count rows and bytes; raise TooLarge, Cancelled or TookTooLong."""
        self.check()
        self.rows += rows
        self._bytes += size
        limit = self._context.services.max_input_bytes
        if self._bytes > limit:
            raise sources.TooLarge(self.name, limit)
        self._context.progress(None, f"{self.rows} rows read")

    @contextlib.contextmanager
    def watching(self, stop: Callable[[], None]) -> Iterator[None]:
        """Stop the query from aside when it must end; raise why instead of what the driver says."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done, stop), name="guard")
        watcher.start()
        try:
            yield
        except Exception as error:
            reason = self._reason or self._overdue(error)
            if reason is None:
                raise
            raise reason from error
        finally:
            done.set()
            watcher.join()

    def _overdue(self, error: Exception) -> kit.StageFault | None:
        """Know the database's own limit of time by ours, which is over first."""
        late = isinstance(error, kit.Transient) and time.monotonic() >= self._end
        return TookTooLong(self.name, self._timeout_s) if late else None

    def _watch(self, done: threading.Event, stop: Callable[[], None]) -> None:
        while not done.wait(_LOOK_EVERY_S):
            try:
                self.check()
            except kit.StageFault as reason:
                self._reason = reason
                with contextlib.suppress(Exception):  # the query may have ended just now
                    stop()
                return
