"""Owns what every test may use: a real nats-server of its own."""

from __future__ import annotations

import pytest

from agent.bus import server


@pytest.fixture
async def embedded(tmp_path):
    """Give a nats-server with JetStream, as the agent starts it."""
    async with server.EmbeddedServer(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def nats_url(embedded):
    return embedded.url
