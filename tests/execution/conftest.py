"""Owns the Ray cluster of the test session."""

from __future__ import annotations

import pytest

from agent import config
from agent.execution import cluster


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """Give a local cluster with two CPUs; other processes reach it by its address."""
    settings = config.Ray(cpus=2)
    running = cluster.start(settings, tmp_path_factory.mktemp("ray"))
    yield running
    cluster.close(running)
