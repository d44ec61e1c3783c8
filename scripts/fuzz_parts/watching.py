"""Owns what is seen of the agent from outside: its log and its memory."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import psutil

_WARNINGS = {"bus.failed", "bus.disconnected", "commit.not_announced", "sweep.failed"}
"""Warnings that tell of a message that nobody was prepared for."""
_EXPECTED = {"journal.unreadable"}
"""Errors that must be told: somebody has written nonsense into a journal."""
_RAY = "(raylet)"
"""How Ray tells, among much else, of a worker that was stopped by force."""
_HARMLESS = {"no reply subject available"}
"""What the services framework says where it is asked without a place for its answer."""


class Log:
    """Reads what the agent has written since it was last looked at."""

    def __init__(self, file: pathlib.Path) -> None:
        self._file = file
        self._read = 0

    def complaints(self) -> list[tuple[str, str]]:
        """Give each new complaint as (what kind, the text)."""
        with self._file.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return list(_complaints(whole.decode("utf-8", "replace").splitlines()))


def _complaints(lines: list[str]) -> Iterator[tuple[str, str]]:
    plain: list[str] = []
    for line in lines:
        entry = _entry(line)
        if entry is not None:
            yield from _of_entry(entry)
        elif _RAY not in line:
            plain.append(line)
    if any("Traceback" in line or "ERROR" in line for line in plain):
        last = next((line for line in reversed(plain) if re.match(r"\w", line)), "")
        yield f"log: {last[:120]}", "\n".join(plain)


def _entry(line: str) -> dict[str, Any] | None:
    """Read an entry; what another process wrote in its midst comes after it."""
    try:
        found, _ = json.JSONDecoder().raw_decode(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _of_entry(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    event = entry["event"]
    bad = entry["level"] in {"error", "critical"} or event in _WARNINGS or "exception" in entry
    if bad and event not in _EXPECTED and entry.get("reason") not in _HARMLESS:
        trace = entry.get("exception", "")
        last = trace.strip().splitlines()[-1] if trace else entry.get("error", "")
        yield f"log: {event}: {re.sub(r'[0-9]+', '#', last)[:120]}", f"{entry}\n{trace}"


def memory(pid: int) -> int:
    """Give the bytes that a process holds."""
    return int(psutil.Process(pid).memory_info().rss)
