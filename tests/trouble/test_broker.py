"""A broker that stores nothing, or is far away: nothing is lost, and all goes on."""

from __future__ import annotations

import contextlib

import pytest
import pytest_asyncio

from agent import config, service
from agent.conductor import scribe
from protocol import chain, client, events
from scripts.chaos_parts import proxy
from tests.service import helpers
from tests.service.helpers import stage
from tests.trouble import brokers

pytestmark = helpers.MARKS

DELAY_S = 0.15
WIDTH = 3 * scribe.MOST_BEHIND


@contextlib.asynccontextmanager
async def agent_at(url, folder):
    settings = helpers.settings(
        folder,
        nats=config.Nats(url=url),
        runs=config.Runs(lease_s=20.0),
        security=config.Security(audit_bytes=2**20),
    )
    async with service.running(settings, modules=helpers.MODULES) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def broker(tmp_path):
    async with brokers.running(tmp_path / "broker") as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def agent(ray_cluster, broker, tmp_path):  # noqa: ARG001 - the connection is the process's
    async with agent_at(broker.url, tmp_path / "agent") as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent):
    async with client.connect(agent.nats_url) as one:
        yield one


async def begun(ask, trace, *stages):
    """Ask for a run, and wait until its first stage is at work and the journal says so."""
    run_id = await helpers.submit(ask, *stages)
    await helpers.wait_event(ask, run_id, events.StageStarted, "a")
    await helpers.wait_line(trace, "a began")
    return run_id


async def check(ask, run_id, state="succeeded"):
    assert (await helpers.ended(ask, run_id)).state == state
    raw, _ = await helpers.commits(ask, run_id)
    assert chain.verify(raw, run_id) == []


async def refused(asking):
    with pytest.raises(client.Refused) as no:
        await asking
    problem = no.value.problem
    assert (problem.code, problem.retryable) == ("unavailable", True)
    assert problem.hint
    return problem


async def test_what_cannot_be_stored_is_not_accepted(ask, broker):
    request = helpers.request(stage("a", "sample.noop"))
    await broker.fill()
    assert "insufficient resources" in (await refused(ask.submit(request))).message
    await broker.empty()
    accepted = await ask.submit(request)
    await check(ask, accepted.run_id)
    assert (await ask.submit(request)).duplicate


async def test_a_run_waits_for_room_and_goes_on(ask, broker, trace, tmp_path):
    go = tmp_path / "go"
    run_id = await begun(ask, trace, *helpers.chained(trace, go))
    before, _ = await helpers.commits(ask, run_id)
    await broker.fill()
    go.touch()
    await helpers.wait_line(trace, "b ended")
    assert (await helpers.commits(ask, run_id))[0] == before
    await broker.empty()
    await check(ask, run_id)


async def test_a_cancellation_stops_the_work_before_it_can_be_stored(ask, broker, trace, tmp_path):
    run_id = await begun(ask, trace, *helpers.chained(trace, tmp_path / "never"))
    await broker.fill()
    problem = await refused(ask.cancel(run_id))
    assert problem.run_id == run_id
    await helpers.wait_line(trace, "a stopped")
    await broker.empty()
    await check(ask, run_id, "cancelled")
    assert [line for line in helpers.lines(trace) if line.startswith("b")] == []


async def test_a_run_that_is_far_ahead_of_its_journal_waits_for_it(ask, agent, broker, trace):
    each = {"trace": str(trace)}
    run_id = await helpers.submit(
        ask,
        stage("list", "sample.items", {"items": list(range(WIDTH))}),
        stage("each", "service.each", each, for_each={"items": "list", "as": "item"}),
    )
    await helpers.wait_event(ask, run_id, events.StageStarted, "each")
    await broker.fill()
    held = agent.host.held(run_id)
    await helpers.wait_until(lambda: held.scribe.behind and not held._attempts)
    assert len(helpers.lines(trace)) < WIDTH
    assert len(held.scribe._pending) < 2 * scribe.MOST_BEHIND
    await broker.empty()
    await check(ask, run_id)
    assert len(helpers.lines(trace)) == WIDTH


@pytest.mark.usefixtures("ray_cluster")
async def test_an_agent_far_from_its_broker_is_slow_and_right(nats_url, trace, tmp_path):
    async with proxy.Proxy(nats_url) as line, agent_at(line.url, tmp_path / "agent") as agent:
        line.delay_s = DELAY_S
        async with client.connect(agent.nats_url) as ask:
            go = tmp_path / "go"
            go.touch()
            wide = stage("wide", "service.wide", {"columns": 200})
            status, told = await helpers.done(ask, *helpers.chained(trace, go), wide)
            assert status.state == "succeeded"
            took = told[-1].at - told[0].at
            assert took.total_seconds() > DELAY_S
            assert all(one.attempt == 1 for one in status.stages)
            raw, _ = await helpers.commits(ask, status.run_id)
            assert chain.verify(raw, status.run_id) == []
