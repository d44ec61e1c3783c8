"""Owns callers of the convention: its own package, against the running agent or a door alone."""

from __future__ import annotations

import nats
import pytest
import pytest_asyncio
from synadia_ai import agents

from agent import service
from agent.bus import server
from tests.service import helpers
from tests.service.conftest import ask, bus, ray_cluster, trace

__all__ = ["ask", "bus", "ray_cluster", "trace"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    """Give an agent with its own bus, on the Ray of the session."""
    settings = helpers.settings(tmp_path_factory.mktemp("prompted"))
    async with service.running(settings, modules=helpers.MODULES) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def callers(bus):
    """Give a caller's view of the shared agent's bus."""
    one = agents.Agents(nc=bus)
    yield one
    await one.close()


@pytest_asyncio.fixture(loop_scope="session")
async def mlpm(callers):
    """Give the running agent as a caller finds it."""
    (found,) = await callers.discover()
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def broker(tmp_path):
    """Give a bus on which a test starts agents of its own."""
    async with server.EmbeddedServer(tmp_path / "nats") as one:
        yield one


@pytest.fixture
async def nc(nats_url):
    """Give the connection on which a door is served."""
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
def go(tmp_path):
    """Give the file that lets held stages end; a test that fails must not hold up the others."""
    file = tmp_path / "go"
    yield file
    file.touch()
