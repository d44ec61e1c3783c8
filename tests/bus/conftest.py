"""Owns a connection with the agent's streams, for the tests of the bus."""

from __future__ import annotations

import pytest

from agent import config
from agent.bus import connection, streams
from protocol import subjects


@pytest.fixture
def names():
    return subjects.Subjects()


@pytest.fixture
async def nc(nats_url, names):
    client = await connection.connect(nats_url, config.Nats(), "test")
    await streams.ensure(client.jetstream(), names)
    yield client
    await client.close()
