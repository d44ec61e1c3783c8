"""A broker that dies and comes back: runs wait for it, and go on."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import pytest_asyncio

from agent import config, service
from agent.bus import server
from protocol import chain, client, events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS


class Broker:
    """A nats-server that can be killed and started again on its port."""

    def __init__(self, folder) -> None:
        self._folder = folder
        self._stack = contextlib.AsyncExitStack()
        self.url = ""

    async def start(self):
        port = int(self.url.rsplit(":", 1)[1]) if self.url else 0
        one = server.EmbeddedServer(self._folder, port)
        self._server = await self._stack.enter_async_context(one)
        self.url = one.url

    async def kill(self):
        self._server._process.send_signal(signal.SIGKILL)
        await self._server._process.wait()

    async def close(self):
        await self._stack.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def broker(tmp_path):
    one = Broker(tmp_path / "nats")
    await one.start()
    yield one
    await one.close()


@pytest_asyncio.fixture(loop_scope="session")
async def agent(ray_cluster, broker, tmp_path):  # noqa: ARG001 - the connection is the process's
    settings = helpers.settings(
        tmp_path / "agent", nats=config.Nats(url=broker.url), runs=config.Runs(lease_s=1.0)
    )
    async with service.running(settings, modules=helpers.MODULES) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent):
    async with client.connect(agent.nats_url) as one:
        yield one


async def check(ask, run_id):
    assert (await helpers.ended(ask, run_id)).state == "succeeded"
    raw, _ = await helpers.commits(ask, run_id)
    assert chain.verify(raw, run_id) == []


async def test_what_happened_while_the_broker_was_away_is_stored_when_it_is_back(
    ask, broker, trace, tmp_path
):
    go = tmp_path / "go"
    run_id = await helpers.submit(ask, *helpers.chained(trace, go))
    await helpers.wait_event(ask, run_id, events.StageStarted, "a")
    await helpers.wait_line(trace, "a began")
    await broker.kill()
    go.touch()
    await helpers.wait_line(trace, "b ended")  # the run does not wait for the broker
    await broker.start()
    await check(ask, run_id)


async def test_an_agent_notices_that_the_bus_wants_no_more_of_it(agent):
    await agent._nc._process_err("'maximum connections exceeded'")  # as the server would say
    await asyncio.wait_for(agent.failed.wait(), helpers.WAIT_S)


async def test_a_run_whose_lease_ran_out_is_taken_again(ask, agent, broker, trace, tmp_path):
    go = tmp_path / "go"
    run_id = await helpers.submit(ask, *helpers.chained(trace, go))
    await helpers.wait_event(ask, run_id, events.StageStarted, "a")
    pid = int((await helpers.wait_line(trace, "a began")).split()[-1])
    await broker.kill()
    await helpers.wait_until(lambda: agent.host.held(run_id) is None)
    await helpers.wait_until(lambda: helpers.is_gone(pid))
    go.touch()
    await broker.start()
    await check(ask, run_id)
    assert len(helpers.of(await helpers.story(ask, run_id), events.RunRecovered)) == 1
    assert (await helpers.done(ask, stage("a", "sample.noop")))[0].state == "succeeded"
