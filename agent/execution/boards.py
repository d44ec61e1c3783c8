"""Owns what the attempt in a worker tells, and whether it is to stop."""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping
from typing import Any

import msgspec


class Told(msgspec.Struct, frozen=True):
    """A progress or a note of the running attempt, numbered from 1."""

    number: int
    note: bool
    fraction: float | None = None
    text: str = ""
    """The message of a progress, the fact of a note."""
    details: dict[str, Any] = {}


class Board:
    """The news of the running attempt; shared by the worker's threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._current = 0
        self._to_stop: set[int] = set()
        self._count = 0
        self._progress: Told | None = None
        self._notes: collections.deque[Told] = collections.deque()

    def open(self, number: int) -> None:
        """Begin an attempt."""
        with self._changed:
            self._current, self._count = number, 0
            self._progress = None
            self._notes.clear()

    def close(self) -> None:
        """End the attempt."""
        with self._changed:
            self._to_stop.discard(self._current)
            self._current = 0
            self._changed.notify_all()

    def stop(self, number: int) -> None:
        """Mark an attempt as one to stop."""
        with self._changed:
            self._to_stop.add(number)

    def stopped(self, number: int) -> bool:
        """Say whether an attempt is to stop."""
        return number in self._to_stop

    def progress(self, fraction: float | None, message: str, metrics: Mapping[str, float]) -> None:
        """Take a progress; only the latest is kept."""
        with self._changed:
            self._count += 1
            self._progress = Told(self._count, False, fraction, message, dict(metrics))
            self._changed.notify_all()

    def note(self, fact: str, details: Mapping[str, Any]) -> None:
        """Take a note; all are kept."""
        with self._changed:
            self._count += 1
            self._notes.append(Told(self._count, True, None, fact, dict(details)))
            self._changed.notify_all()

    def notes(self) -> list[Told]:
        """Give all notes of the attempt."""
        with self._changed:
            return list(self._notes)

    def wait_news(self, number: int, seen: int, patience_s: float) -> list[Told]:
        """Wait for what is newer than `seen`; give nothing once the attempt has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._current != number or self._count > seen, patience_s
            )
            if self._current != number:
                return []
            all_told = [*self._notes, *([self._progress] if self._progress else [])]
            return sorted((t for t in all_told if t.number > seen), key=lambda told: told.number)
