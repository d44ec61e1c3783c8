"""Owns the name of the code that is running: the package's version, and the commit where known."""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
import subprocess

DISTRIBUTION = "ml-pipeline-manager"


def package_version() -> str:
    """Give the installed version."""
    return importlib.metadata.version(DISTRIBUTION)


@functools.cache
def code_version() -> str:
    """Give `version+commit` in a checkout (`.dirty` with local changes), else the version."""
    folder = pathlib.Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=.dirty", "--exclude=*"],  # noqa: S607 - git from PATH
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return package_version()
    return f"{package_version()}+{described.stdout.strip()}"
