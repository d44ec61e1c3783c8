"""Owns files that nobody but this user may read."""

from __future__ import annotations

import os
import pathlib

_OURS = 0o600


def write(path: pathlib.Path, data: bytes) -> None:
    """Write a file; a reader sees all of it or nothing, and others see nothing at any time."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OURS)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(path)
    except BaseException:
        draft.unlink()
        raise


def folder(path: pathlib.Path) -> None:
    """Make a folder, and close it to others."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
