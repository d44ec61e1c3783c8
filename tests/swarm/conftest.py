"""Owns a bus with the swarm's streams, and a store that its agents share."""

from __future__ import annotations

import importlib

import pytest

from agent.artifacts import store
from stages import registry
from tests.bus.conftest import names, nc
from tests.execution.conftest import ray_cluster
from tests.service.conftest import trace
from tests.swarm import helpers

__all__ = ["names", "nc", "ray_cluster", "trace"]


@pytest.fixture
def artifacts(tmp_path):
    for name in helpers.MODULES:
        registry.register(importlib.import_module(name))
    return store.Store((tmp_path / "shared").as_uri(), tmp_path / "local").make()
