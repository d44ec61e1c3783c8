"""A broker that dies and comes back: what was assigned is done once, and what comes later too."""

from __future__ import annotations

import asyncio

import pytest

from agent import config
from agent.bus import connection, streams
from agent.execution import base
from protocol import client
from tests.execution import helpers as executing
from tests.service.test_broker import Broker
from tests.swarm import helpers
from tests.swarm.helpers import half


@pytest.fixture
async def broker(tmp_path):
    one = Broker(tmp_path / "broker")
    await one.start()
    yield one
    await one.close()


async def test_assignments_outlast_their_broker(broker, names, artifacts, trace, tmp_path):
    nc = await connection.connect(broker.url, config.Nats(), "test")
    await streams.ensure(nc.jetstream(), names)
    go = tmp_path / "go"
    asked = executing.work("service.work", trace=str(trace), until=str(go))
    async with half(nc, names, artifacts) as one:
        task = asyncio.create_task(one.executor.run(asked, executing.Watcher()))
        await helpers.wait_lines(trace, "began")
        await broker.kill()
        go.touch()
        await helpers.wait_lines(trace, "ended")
        await broker.start()
        assert isinstance(await task, base.Succeeded)
        await helpers.wait_empty(nc, names)
        later = executing.work("service.work", trace=str(trace), name="later")
        assert isinstance(await one.executor.run(later, executing.Watcher()), base.Succeeded)
        await one.member._presence.show()
        async with client.connect(broker.url) as asking:
            assert [card.agent for card in await asking.agents()] == ["taker"]
    assert await helpers.kept_reports(nc, names) == 2
    assert len([line for line in helpers.lines(trace) if "began" in line]) == 2
    await nc.close()
