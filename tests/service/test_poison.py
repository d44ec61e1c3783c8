"""Runs that end whoever conducts them: put aside with the reason, while the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import nats
import pytest
import pytest_asyncio

from agent import config
from protocol import codec, events, subjects, swarm
from tests.service import helpers
from tests.service.agent_process import Agent
from tests.service.helpers import stage
from tests.service.test_crash import ask, broker, check_journal

__all__ = ["ask", "broker"]

pytestmark = [*helpers.MARKS, pytest.mark.slow]
NAMES = subjects.Subjects()
LOSSES = 3


@pytest_asyncio.fixture(loop_scope="session")
async def agent(broker, ray_cluster, tmp_path):
    """Give an agent that puts a run aside after three losses."""
    settings = helpers.settings(
        tmp_path / "agent",
        agent_id="one",
        nats=config.Nats(url=broker.url),
        ray=config.Ray(address=ray_cluster.address, workers=2),
        runs=config.Runs(lease_s=1.0, max_losses=LOSSES),
        artifacts=config.Artifacts(uri=(tmp_path / "artifacts").as_uri()),
    )
    one = Agent(tmp_path, settings)
    yield one
    await one.kill()


@contextlib.asynccontextmanager
async def supervised(agent):
    """Start the agent again whenever it has ended; give how often it was killed."""
    ends = []

    async def keep():
        while True:
            await agent.start()
            ends.append(await agent.process.wait())

    keeping = asyncio.create_task(keep())
    yield ends
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


def held(trace, go):
    return stage("b", "service.work", {"trace": str(trace), "name": "b", "until": str(go)})


def deadly(trace, mended):
    params = {"trace": str(trace), "mended": str(mended)}
    return stage("boom", "service.deadly", params, placement="agent")


async def test_a_run_that_ends_each_agent_is_failed_and_the_others_go_on(
    agent, ask, broker, trace, tmp_path
):
    go, mended = tmp_path / "go", tmp_path / "mended"
    async with supervised(agent) as ends:
        await helpers.wait_until(lambda: agent.process and agent.process.returncode is None)
        innocent = await asyncio.wait_for(_submitted(ask, held(trace, go)), helpers.WAIT_S)
        await helpers.wait_line(trace, "b began")
        poison = await helpers.submit(ask, deadly(trace, mended))
        await helpers.wait_until(lambda: trace.read_text().count("boom") >= 2)
        go.touch()
        async with asyncio.timeout(90):
            told = [entry.event async for entry in ask.follow(poison)]
        failed = told[-1]
        assert isinstance(failed, events.RunFailed)
        assert failed.problem.code == "worker_lost"
        assert f"{LOSSES} agents" in failed.problem.message
        assert "boom" in failed.problem.message
        assert (await helpers.ended(ask, innocent)).state == "succeeded"
        died = len(ends)
        assert set(ends) == {-signal.SIGKILL}
        assert died <= LOSSES + 1  # the first may have been too quick for the journal
        assert poison in {one.run_id for one in await _alerts(broker)}
        await _queue_is_empty(broker)
        await check_journal(ask, poison)
        mended.touch()
        await ask.resume(poison, by="ada")
        async with asyncio.timeout(helpers.WAIT_S):
            while (await ask.status(poison)).state != "succeeded":  # noqa: ASYNC110 - it had ended
                await asyncio.sleep(0.05)
        assert len(ends) == died
        await agent.kill()


async def _submitted(ask, *stages):
    """Ask for a run as soon as an agent is there."""
    while True:
        try:
            return await helpers.submit(ask, *stages)
        except Exception:  # noqa: BLE001 - it is being started
            await asyncio.sleep(0.1)


async def _alerts(broker):
    connection = await nats.connect(broker.url)
    js = connection.jetstream()
    last = (await js.stream_info(NAMES.alerts_stream)).state.last_seq
    found = [await js.get_msg(NAMES.alerts_stream, number) for number in range(1, last + 1)]
    await connection.close()
    return [codec.decode(one.data, swarm.Alert) for one in found]


async def _queue_is_empty(broker):
    connection = await nats.connect(broker.url)
    js = connection.jetstream()
    async with asyncio.timeout(helpers.WAIT_S):
        while (await js.stream_info(NAMES.tickets_stream)).state.messages:  # noqa: ASYNC110 - the broker does it
            await asyncio.sleep(0.05)
    await connection.close()


async def test_an_agent_that_is_stopped_in_order_again_and_again_loses_no_run(
    agent, ask, trace, tmp_path
):
    go = tmp_path / "go"
    await agent.start()
    run_id = await helpers.submit(ask, held(trace, go))
    await helpers.wait_line(trace, "b began")
    for times in range(1, LOSSES + 2):
        await at_work(ask, run_id, times)
        agent.send(signal.SIGTERM)
        assert await agent.ended() == 0
        await agent.start()
    await at_work(ask, run_id, LOSSES + 2)
    go.touch()
    assert (await helpers.ended(ask, run_id)).state == "succeeded"
    told = await check_journal(ask, run_id)
    assert len(helpers.of(told, events.RunRecovered)) == LOSSES + 1
    assert trace.read_text().count("b began") == 1  # it went on under each of them


async def at_work(ask, run_id, times):
    """Wait until the journal has said so often that the stage is at work."""
    async with asyncio.timeout(helpers.WAIT_S):
        async for entry in ask.follow(run_id):
            times -= isinstance(entry.event, events.StageStarted)
            if not times:
                return
