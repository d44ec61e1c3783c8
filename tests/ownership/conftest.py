"""Owns what the tests of ownership share: a broker, agents in processes of their own, a judge."""

from __future__ import annotations

import pytest_asyncio

from agent.bus import server
from protocol import client
from scripts.chaos_parts import proxy
from tests.execution.conftest import ray_cluster
from tests.ownership import cases

__all__ = ["ray_cluster"]


@pytest_asyncio.fixture(loop_scope="session")
async def broker(tmp_path):
    """Give a broker of the test's own, so that it can be judged whole."""
    async with server.EmbeddedServer(tmp_path / "broker") as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def wire(broker):
    """Give a way to the broker that can be cut and mended."""
    async with proxy.Proxy(broker.url) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def case(broker, ray_cluster, tmp_path):
    """Give agents that share broker, cluster and store; all are killed at the end."""
    async with client.connect(broker.url) as ask:
        one = cases.Case(tmp_path, broker.url, ray_cluster.address, ask)
        yield one
        await one.close()
