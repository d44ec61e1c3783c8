"""Owns small disks that a test fills and empties."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest


class Disk:
    """A file system of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, but: int = 0) -> None:
        """Leave no room, but for so many bytes."""
        with pytest.raises(OSError, match="No space left"):
            self._fill()
        os.truncate(self._ballast, self._ballast.stat().st_size - but)

    def _fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(folder: pathlib.Path, size: str) -> Iterator[Disk]:
    """Mount a file system in memory while the context lasts."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
