"""Owns the running agent that the tests of the service share, and ways to talk to it."""

from __future__ import annotations

import nats
import pytest
import pytest_asyncio

from agent import service
from protocol import client
from tests.execution.conftest import ray_cluster
from tests.service import helpers

__all__ = ["ray_cluster"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def agent(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    """Give an agent with its own bus, on the Ray of the session."""
    settings = helpers.settings(tmp_path_factory.mktemp("agent"))
    async with service.running(settings, modules=helpers.MODULES) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent):
    """Give a client of the shared agent."""
    async with client.connect(agent.nats_url) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def bus(agent):
    """Give a bare connection to the shared agent's bus."""
    connection = await nats.connect(agent.nats_url)
    yield connection
    await connection.close()


@pytest.fixture
def trace(tmp_path):
    """Give the file in which stages write what happens to them."""
    return tmp_path / "trace"
