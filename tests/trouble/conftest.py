"""Owns the troubled surroundings of an agent: small disks, and brokers with little room."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from tests.execution.conftest import ray_cluster
from tests.service.conftest import trace
from tests.trouble import disks

__all__ = ["ray_cluster", "trace"]


@pytest.fixture
def small_disk(tmp_path):
    """Give a disk of 32 MiB; only root can make one."""
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(disks.mounted(tmp_path / "disk", "32m"))
        except (subprocess.CalledProcessError, FileNotFoundError):
            pytest.skip("a full disk is a small one that is mounted here, which takes root")
