"""An agent on a Ray cluster with a real autoscaler: nodes come for what waits, and go again."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio

from agent.bus import server
from protocol import client, events
from scripts import agents
from tests.service import elastic, helpers
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]

SIZE = "cluster.resized"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(tmp_path_factory):
    """Give a cluster that may have two more CPUs on one node, and a GPU on another."""
    folder = tmp_path_factory.mktemp("elastic")
    one = elastic.Elastic(folder, wide={"CPU": 2}, graphic={"CPU": 1, "GPU": 1})
    await one.start()
    yield one
    await one.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def one(cluster, tmp_path_factory):
    """Give an agent on the cluster."""
    folder = tmp_path_factory.mktemp("agent")
    async with server.EmbeddedServer(folder / "nats") as broker:
        settings = [f"nats.url={broker.url}", f"ray.address={cluster.address}", "ray.idle_s=2"]
        settings += ["specialist.embedded=false", "runs.lease_s=2", "logs.format=json"]
        agent = agents.Agent(
            "one", folder, settings, stages="tests.service.sample_stages", env=cluster.told
        )
        await agent.start()
        await helpers.wait_until(lambda: told(agent, "autoscaler.found"))
        yield agent, broker.url
        await agent.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def ask(one):
    async with client.connect(one[1]) as asking:
        yield asking


def told(agent, event):
    """Give what an agent has logged of a kind."""
    lines = (line for line in agent.log.read_text().splitlines() if line.startswith("{"))
    return [found for line in lines if (found := json.loads(line))["event"] == event]


async def wait_small(cluster, agent):
    """Wait until there is only the head, and the agent knows it."""
    await helpers.wait_until(lambda: cluster.nodes() == 1)
    await helpers.wait_until(lambda: not (sizes := told(agent, SIZE)) or sizes[-1]["cpus"] == 1)


def working(trace, go, name, **resources):
    """Describe a stage that works until a file is there, and writes down its process."""
    told = {"trace": str(trace), "name": name, "until": str(go)}
    return stage(name, "service.work", told, resources=resources)


async def type_at(trace, name):
    """Wait until a stage works, and name the type of its node."""
    line = await helpers.wait_line(trace, f"{name} began")
    return elastic.type_of(int(line.split()[-1]))


async def refused(ask, **resources):
    """Ask for what cannot be had; give the problem."""
    status, told = await helpers.done(ask, stage("s", "service.tell", resources=resources))
    assert status.state == "failed"
    (failed,) = helpers.of(told, events.StageFailed)
    return failed.problem


async def test_nodes_come_for_what_waits_and_go_when_it_is_done(cluster, one, ask, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    run = await helpers.submit(ask, *(working(trace, go, name) for name in "abc"))
    types = await asyncio.gather(*(type_at(trace, name) for name in "abc"))
    assert sorted(types) == [elastic.HEAD_TYPE, "wide", "wide"]
    go.touch()
    assert (await helpers.ended(ask, run)).state == "succeeded"
    await wait_small(cluster, one[0])
    assert told(one[0], "workers.released")[-1]["workers"] == 2


async def test_a_stage_for_more_cpus_than_any_node_has_gets_a_node_that_has_them(
    cluster, one, ask, tmp_path
):
    trace, go = tmp_path / "trace", tmp_path / "go"
    await wait_small(cluster, one[0])
    run = await helpers.submit(ask, working(trace, go, "big", cpu=2))
    assert await type_at(trace, "big") == "wide"
    go.touch()
    assert (await helpers.ended(ask, run)).state == "succeeded"


async def test_a_stage_for_a_gpu_gets_a_node_that_has_one(ask, tmp_path):
    trace, go = tmp_path / "trace", tmp_path / "go"
    run = await helpers.submit(ask, working(trace, go, "fast", gpu=1))
    assert await type_at(trace, "fast") == "graphic"
    go.touch()
    assert (await helpers.ended(ask, run)).state == "succeeded"


@pytest.mark.parametrize("asked", [{"cpu": 64}, {"gpu": 2}])
async def test_what_no_type_of_node_has_is_refused(ask, asked):
    problem = await refused(ask, **asked)
    assert (problem.code, problem.retryable) == ("unavailable", False)
