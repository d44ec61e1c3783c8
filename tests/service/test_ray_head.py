"""A Ray cluster that loses its head: the agent ends, and holds no run that nobody works on."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from agent.bus import server
from protocol import client, events
from scripts import agents
from scripts.chaos_parts import ray_head
from tests.service import elastic, helpers
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]


@pytest_asyncio.fixture(loop_scope="session")
async def head(tmp_path):
    one = ray_head.RayHead(tmp_path, cpus=1, env={"PYTHONPATH": str(agents.ROOT)})
    await one.start()
    yield one
    await one.stop()


async def test_an_agent_without_its_cluster_hands_its_runs_over_and_ends(head, tmp_path, trace):
    async with server.EmbeddedServer(tmp_path / "nats") as broker:
        settings = [f"nats.url={broker.url}", f"ray.address={head.address}", "ray.workers=1"]
        settings += ["specialist.embedded=false", "runs.lease_s=2", "logs.format=json"]
        agent = agents.Agent(
            "one", tmp_path, settings, stages="tests.service.sample_stages", env=head.env
        )
        await agent.start()
        async with client.connect(broker.url) as ask:
            work = stage("s", "service.work", {"trace": str(trace), "seconds": 60.0})
            run = await helpers.submit(ask, work)
            await helpers.wait_line(trace, "work began")
            head.kill()
            async with asyncio.timeout(helpers.WAIT_S):
                assert await agent.wait_ended() != 0
            assert "has not answered" in agent.log.read_text()
            await head.start()
            await agent.start()
            taken = await helpers.wait_event(ask, run, events.RunRecovered)
            assert taken.epoch > 1
            assert (await ask.status(run)).state == "running"
            await ask.cancel(run)
            await helpers.ended(ask, run)
        await agent.stop()


async def test_workers_on_other_nodes_do_not_keep_an_agent_without_its_cluster(tmp_path, trace):
    cluster = elastic.Elastic(tmp_path, idle_minutes=10, wide={"CPU": 2})
    await cluster.start()
    async with server.EmbeddedServer(tmp_path / "nats") as broker:
        settings = [f"nats.url={broker.url}", f"ray.address={cluster.address}"]
        settings += ["specialist.embedded=false", "logs.format=json"]
        agent = agents.Agent(
            "one", tmp_path, settings, stages="tests.service.sample_stages", env=cluster.told
        )
        await agent.start()
        await helpers.wait_until(lambda: "autoscaler.found" in agent.log.read_text())
        async with client.connect(broker.url) as ask:
            work = stage("s", "service.work", {"trace": str(trace)}, resources={"cpu": 2})
            assert (await helpers.done(ask, work))[0].state == "succeeded"
        pid = int((await helpers.wait_line(trace, "work began")).split()[-1])
        assert elastic.type_of(pid) == "wide"
        cluster.kill("gcs_server")
        async with asyncio.timeout(helpers.WAIT_S):
            assert await agent.wait_ended() != 0
        assert "has not answered" in agent.log.read_text()
        await agent.stop()
    await cluster.stop()
