"""Owns a bus with the swarm's streams, and a store that its agents share."""

from __future__ import annotations

import importlib

import pytest

from agent import config
from agent.artifacts import store
from agent.bus import connection, streams
from protocol import subjects
from stages import registry
from tests.execution.conftest import ray_cluster
from tests.swarm import helpers

__all__ = ["ray_cluster"]


@pytest.fixture
def names():
    return subjects.Subjects()


@pytest.fixture
async def nc(nats_url, names):
    client = await connection.connect(nats_url, config.Nats(), "test")
    await streams.ensure(client.jetstream(), names)
    yield client
    await client.close()


@pytest.fixture
def artifacts(tmp_path):
    for name in helpers.MODULES:
        registry.register(importlib.import_module(name))
    return store.Store((tmp_path / "shared").as_uri(), tmp_path / "local").make()


@pytest.fixture
def trace(tmp_path):
    """Give the file in which stages write what happens to them."""
    return tmp_path / "trace"
