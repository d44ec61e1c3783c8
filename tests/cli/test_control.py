"""An agent is drained, waited for, and resized from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import sys

import pytest
import pytest_asyncio

from agent import service
from protocol import client
from tests.execution.conftest import ray_cluster
from tests.service import helpers
from tests.service.helpers import stage

__all__ = ["ray_cluster"]

pytestmark = helpers.MARKS
ROOT = pathlib.Path(__file__).parents[2]
NAME = "agent-to-steer"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    settings = helpers.settings(tmp_path_factory.mktemp("steered"), agent_id=NAME)
    async with service.running(settings, modules=helpers.MODULES) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent):
    async with client.connect(agent.nats_url) as one:
        yield one
    agent.swarm.stance.become("ready")


@pytest.fixture
def trace(tmp_path):
    """Give the file in which stages write what happens to them."""
    return tmp_path / "trace"


class Called:
    """One call of the program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._over = asyncio.create_task(process.communicate())

    @property
    def running(self) -> bool:
        return not self._over.done()

    async def end(self, code=0):
        """Wait for its end; give what it printed."""
        out, err = await asyncio.wait_for(self._over, helpers.WAIT_S)
        assert self.process.returncode == code, out.decode() + err.decode()
        return (out + err).decode()

    async def told(self, code=0):
        return json.loads(await self.end(code))


@pytest.fixture
def mlpm(agent, tmp_path):
    """Call the program in an empty folder."""

    async def call(*arguments):
        command = [sys.executable, "-m", "agent", *arguments, "--url", agent.nats_url]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLPM_")}
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=tmp_path,
            env=clean | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return Called(process)

    return call


async def test_an_agent_is_drained_and_waited_for_until_it_holds_nothing(
    agent, ask, mlpm, trace, tmp_path
):
    go = tmp_path / "go"
    work = stage("w", "service.work", {"trace": str(trace), "until": str(go)})
    run = await helpers.submit(ask, work)
    await helpers.wait_line(trace, "work began")
    draining = await mlpm("drain", NAME, "--wait", "--json")
    await helpers.wait_until(lambda: agent.swarm.stance.state == "draining")
    with pytest.raises(client.Refused) as refused:
        await helpers.submit(ask, stage("a", "sample.noop"))
    assert refused.value.problem.code == "overloaded"
    told = await (await mlpm("drain", NAME, "--json")).told()
    assert (told["state"], told["runs"], told["load"]) == ("draining", 1, 1)
    assert draining.running
    go.touch()
    assert (await helpers.ended(ask, run)).state == "succeeded"
    told = await draining.told()
    assert (told["agent"], told["state"], told.get("runs", 0), told["load"]) == (
        NAME,
        "draining",
        0,
        0,
    )
    shown = await (await mlpm("undrain", NAME)).end()
    assert f"agent {NAME} is ready: 0 runs held" in shown
    status, _ = await helpers.done(ask, stage("a", "sample.noop"))
    assert status.state == "succeeded"


async def test_waiting_ends_when_somebody_lets_the_agent_take_work_again(
    agent, ask, mlpm, trace, tmp_path
):
    go = tmp_path / "go"
    work = stage("w", "service.work", {"trace": str(trace), "until": str(go)})
    run = await helpers.submit(ask, work)
    await helpers.wait_line(trace, "work began")
    draining = await mlpm("drain", NAME, "--wait", "--json")
    await helpers.wait_until(lambda: agent.swarm.stance.state == "draining")
    await ask.control(NAME, "undrain")
    problem = (await draining.told(1))["problem"]
    assert (problem["code"], "take work again" in problem["message"]) == ("conflict", True)
    go.touch()
    await helpers.ended(ask, run)


@pytest.mark.usefixtures("ask")
async def test_the_capacity_is_set_and_goes_back_to_what_the_cluster_has(agent, mlpm):
    assert (await (await mlpm("capacity", NAME, "7", "--json")).told())["capacity"] == 7
    assert agent.swarm.stance.capacity == 7
    assert (await (await mlpm("capacity", NAME, "0", "--json")).told())["capacity"] == 0
    assert (await (await mlpm("capacity", NAME, "--json")).told())["capacity"] == 2
    assert "Usage" in await (await mlpm("capacity", NAME, "-1")).end(2)


@pytest.mark.usefixtures("ask")
async def test_an_agent_that_is_not_there_is_unavailable_and_a_name_that_is_none_is_wrong_usage(
    mlpm,
):
    problem = (await (await mlpm("drain", "nobody", "--json")).told(3))["problem"]
    assert (problem["code"], "swarm.control.nobody" in problem["message"]) == ("unavailable", True)
    assert "Usage" in await (await mlpm("drain", "a.b")).end(2)


async def test_the_list_of_agents_tells_how_many_runs_each_holds(ask, mlpm, trace, tmp_path):
    go = tmp_path / "go"
    work = stage("w", "service.work", {"trace": str(trace), "until": str(go)})
    run = await helpers.submit(ask, work)

    async def held():
        return [(card.agent, card.runs) for card in await ask.agents()]

    async with asyncio.timeout(helpers.WAIT_S):
        while await held() != [(NAME, 1)]:  # noqa: ASYNC110 - it is told every two seconds
            await asyncio.sleep(0.05)
    assert [one["runs"] for one in await (await mlpm("agents", "--json")).told()] == [1]
    go.touch()
    await helpers.ended(ask, run)
