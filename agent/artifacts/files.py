"""Owns files on this machine's disk: whole or not there, durable, and known by their digest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

Mark = tuple[int, int, int]
"""What changes when a file does: time of change in nanoseconds, size, inode."""


class Digests:
    """Digests of files: read once per process, and again whenever the file has changed."""

    def __init__(self) -> None:
        self._known: dict[pathlib.Path, tuple[Mark, str]] = {}

    def of(self, path: pathlib.Path) -> str:
        """Give a file's digest; raises FileNotFoundError."""
        mark = _mark(path)
        known = self._known.get(path)
        if known is not None and known[0] == mark:
            return known[1]
        found = digest(path)
        self._known[path] = (mark, found)
        return found

    def touch(self, path: pathlib.Path) -> None:
        """Make a file new, without forgetting its digest."""
        before = _mark(path)
        os.utime(path)
        known = self._known.get(path)
        if known is not None and known[0] == before:
            self._known[path] = (_mark(path), known[1])

    def forget(self, path: pathlib.Path) -> None:
        """Let go of a file that is deleted."""
        self._known.pop(path, None)


def digest(path: pathlib.Path) -> str:
    """Digest a file as `sha256:<hex>`."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def digest_of(data: bytes) -> str:
    """Digest bytes as `sha256:<hex>`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def changed(path: pathlib.Path) -> float:
    """Give the POSIX time of a file's last change; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def deliver(path: pathlib.Path, target: pathlib.Path, *, durable: bool = True) -> None:
    """Move a finished file to its name at once.

    A durable one survives a power cut: its bytes are on disk before its name is, and its name
    before this returns.
    """
    folders = _make_folders(target.parent)
    if durable:
        _sync(path)
    path.replace(target)
    if durable:
        for folder in folders:
            _sync(folder)


@contextlib.contextmanager
def scratch(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a new file that is gone afterwards, unless it was moved away."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    path = pathlib.Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def sweep(folder: pathlib.Path, before: float) -> int:
    """Remove files last changed before a POSIX time; say how many."""
    removed = 0
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()
                removed += 1
    return removed


def _mark(path: pathlib.Path) -> Mark:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _make_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Make a folder; give it and those above it that got a new entry."""
    touched = [folder]
    while not touched[-1].exists():
        touched.append(touched[-1].parent)
    folder.mkdir(parents=True, exist_ok=True)
    return touched


def _sync(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
