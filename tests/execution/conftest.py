"""Owns the Ray cluster of the test session, and executors on it."""

from __future__ import annotations

import importlib

import pytest

from agent import config
from agent.artifacts import store
from agent.bus import connection
from agent.execution import cluster, in_agent, lines, pool
from protocol import subjects
from stages import kit, registry
from tests.execution import helpers


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """Give a local cluster with two CPUs; other processes reach it by its address."""
    settings = config.Ray(cpus=2)
    running = cluster.start(settings, tmp_path_factory.mktemp("ray"))
    yield running
    cluster.close(running)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    for name in helpers.MODULES:
        registry.register(importlib.import_module(name))
    folder = tmp_path_factory.mktemp("artifacts")
    return store.Store(folder.as_uri(), folder / "local")


@pytest.fixture
async def on_ray(ray_cluster, artifacts, tmp_path):
    executor = pool.RayExecutor(
        ray_cluster,
        config.Ray(),
        artifacts.uri,
        tmp_path,
        kit.Services(),
        modules=helpers.MODULES,
    )
    yield executor
    await executor.close()


@pytest.fixture
async def on_bus(ray_cluster, artifacts, tmp_path, nats_url):
    """Give an executor whose orders and replies travel over a bus."""
    client = await connection.connect(nats_url, config.Nats(), "test")
    line = lines.Lines(client, subjects.Subjects(), lines.Access(nats_url, config.Nats()))
    await line.open()
    executor = pool.RayExecutor(
        ray_cluster,
        config.Ray(),
        artifacts.uri,
        tmp_path,
        kit.Services(),
        modules=helpers.MODULES,
        line=line,
    )
    yield executor
    await executor.close()
    await client.close()


@pytest.fixture
async def in_this_process(artifacts):
    executor = in_agent.InAgentExecutor(artifacts, kit.Services(), threads=2)
    yield executor
    await executor.close()
