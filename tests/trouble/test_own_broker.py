"""The broker that an agent has started itself: killed, and on a disk that is full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import nats.errors
import nats.js.errors
import pytest
import pytest_asyncio

from agent import config, service, tasks
from agent.bus import connection, server
from protocol import chain, client, events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS


@contextlib.asynccontextmanager
async def kept(folder):
    """Run a server that is kept."""
    async with server.EmbeddedServer(folder) as one:
        keeping = asyncio.create_task(one.keep())
        try:
            yield one
        finally:
            await tasks.end(keeping)


async def stored(js, subject, data=b"x"):
    """Tell whether a message was stored."""
    try:
        await js.publish(subject, data, timeout=1)
    except (nats.errors.Error, TimeoutError):
        return False
    return True


async def wait_stored(js, subject):
    async with asyncio.timeout(helpers.WAIT_S):
        while not await stored(js, subject):  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.05)


async def refusal(ask, request):
    """Give the problem with which a request is not accepted; None where it is."""
    try:
        await ask.submit(request)
    except client.ClientError as no:
        return no.problem
    return None


@pytest_asyncio.fixture(loop_scope="session")
async def agent(ray_cluster, tmp_path):  # noqa: ARG001 - the connection is the process's
    settings = helpers.settings(tmp_path / "agent", runs=config.Runs(lease_s=20.0))
    async with service.running(settings, modules=helpers.MODULES) as one:
        yield one


async def test_a_killed_broker_is_started_again_and_the_run_in_progress_goes_on(
    agent, trace, tmp_path
):
    go = tmp_path / "go"
    told = {"trace": str(trace), "name": "a", "until": str(go)}
    async with client.connect(agent.nats_url) as ask:
        run_id = await helpers.submit(ask, stage("a", "service.work", told))
        await helpers.wait_event(ask, run_id, events.StageStarted, "a")
        ports = next((agent.settings.data_path / "nats").glob("nats-server_*.ports"))
        os.kill(int(ports.stem.rpartition("_")[2]), signal.SIGKILL)
        await helpers.wait_until(lambda: ask.connection.is_reconnecting)
        await helpers.wait_until(lambda: ask.connection.is_connected)
        go.touch()
        assert (await helpers.ended(ask, run_id)).state == "succeeded"
        raw, _ = await helpers.commits(ask, run_id)
        assert chain.verify(raw, run_id) == []
        status, told = await helpers.done(ask, stage("one", "sample.noop"))
        assert status.state == "succeeded"
        waited = helpers.of(told, events.RunStarted)[0].at - told[0].at
        assert waited.total_seconds() < 4, "the pulls of the broker that was killed are given up"


async def test_a_broker_whose_disk_was_full_stores_again_once_there_is_room(small_disk):
    folder = small_disk.folder / "nats"
    async with kept(folder) as one:
        nc = await connection.connect(one.url, config.Nats(), "test")
        js = nc.jetstream()
        await js.add_stream(name="J", subjects=["j.*"])
        assert await stored(js, "j.a")
        pid = one._process.pid
        small_disk.fill()
        refused = await js.stream_info("J")
        while await stored(js, "j.a", bytes(10_000)):
            refused = await js.stream_info("J")
        assert not await stored(js, "j.a")
        assert one._process.pid == pid  # while there is no room a new one would be of no help
        small_disk.empty()
        await wait_stored(js, "j.a")
        assert one._process.pid != pid
        assert (await js.stream_info("J")).state.messages >= refused.state.messages + 1
        await nc.close()


async def test_a_broker_that_cannot_be_started_is_tried_again(tmp_path):
    async with kept(tmp_path / "nats") as one:
        nc = await connection.connect(one.url, config.Nats(), "test")
        conf = tmp_path / "nats" / "nats.conf"
        text = conf.read_text()
        conf.write_text("no configuration")
        first = one._process
        first.send_signal(signal.SIGKILL)
        await helpers.wait_until(lambda: one._process.returncode == 1)  # of one more, in vain
        conf.write_text(text)
        await helpers.wait_until(lambda: nc.is_connected and one._process is not first)
        await helpers.wait_until(lambda: one._process.returncode is None)
        await nc.flush(timeout=helpers.WAIT_S)
        await nc.close()


@pytest.mark.usefixtures("ray_cluster")
async def test_an_agent_whose_disk_was_full_takes_requests_again_once_there_is_room(small_disk):
    settings = helpers.settings(small_disk.folder / "agent")
    request = helpers.request(stage("a", "sample.noop"))
    async with (
        service.running(settings, modules=helpers.MODULES) as agent,
        client.connect(agent.nats_url) as ask,
    ):
        assert (await helpers.done(ask, stage("a", "sample.noop")))[0].state == "succeeded"
        small_disk.fill()
        while (problem := await refusal(ask, helpers.request(stage("a", "sample.noop")))) is None:
            pass  # there is room left in the last page of a file
        assert problem.retryable
        assert problem.hint
        assert await refusal(ask, request)
        small_disk.empty()
        async with asyncio.timeout(helpers.WAIT_S):
            while await refusal(ask, request):
                pass
        accepted = await ask.submit(request)
        assert accepted.duplicate
        assert (await helpers.ended(ask, accepted.run_id)).state == "succeeded"
