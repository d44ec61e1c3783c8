"""Owns the locked bus that the tests of its permissions share."""

from __future__ import annotations

import pytest
import pytest_asyncio

from agent.bus import streams
from protocol import accounts, credentials, permissions
from tests.execution.conftest import ray_cluster
from tests.security import locked

__all__ = ["ray_cluster"]


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    return locked.make_keys(tmp_path_factory.mktemp("keys"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bus(keys, tmp_path_factory):
    """Give the URL of a locked nats-server that has the agent's streams."""
    text = accounts.configuration(keys.users)
    async with locked.serving(tmp_path_factory.mktemp("nats"), text) as url:
        agent = await credentials.connect(url, keys.who(permissions.AGENT))
        await streams.ensure(agent.jetstream(), locked.NAMES)
        await agent.close()
        yield url
