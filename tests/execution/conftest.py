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
async def executor_on(ray_cluster, artifacts, tmp_path):
    """Make an executor, with a line over the bus or without."""
    made = []

    def make(line=None):
        executor = pool.RayExecutor(
            ray_cluster,
            config.Ray(),
            artifacts.uri,
            tmp_path,
            kit.Services(),
            modules=helpers.MODULES,
            line=line,
        )
        made.append(executor)
        return executor

    yield make
    for executor in made:
        await executor.close()


@pytest.fixture
async def on_ray(executor_on):
    return executor_on()


@pytest.fixture
async def line(nats_url):
    client = await connection.connect(nats_url, config.Nats(), "test")
    opened = lines.Lines(client, subjects.Subjects(), lines.Access(nats_url, config.Nats()))
    await opened.open()
    yield opened
    await client.close()


@pytest.fixture
async def on_bus(line, executor_on):
    """Give an executor whose orders and replies travel over a bus."""
    return executor_on(line)


@pytest.fixture
async def in_this_process(artifacts):
    executor = in_agent.InAgentExecutor(artifacts, kit.Services(), threads=2)
    yield executor
    await executor.close()
