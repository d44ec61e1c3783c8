"""Agents that are killed, frozen or stopped: their runs go on, and nothing finished runs twice."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime as dt
import signal

import pytest
import pytest_asyncio

from agent import config
from agent.bus import server
from protocol import chain, client, events
from tests.service import helpers
from tests.service.agent_process import Agent
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def broker(tmp_path_factory):
    async with server.EmbeddedServer(tmp_path_factory.mktemp("broker") / "nats") as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def make(broker, ray_cluster, tmp_path):
    """Give a maker of agents that share a bus, a cluster and a store; all are killed at the end."""
    made = []

    def one(name, lease_s=1.0):
        settings = helpers.settings(
            tmp_path / name,
            agent_id=name,
            nats=config.Nats(url=broker.url),
            ray=config.Ray(address=ray_cluster.address, workers=2),
            runs=config.Runs(lease_s=lease_s),
            artifacts=config.Artifacts(uri=(tmp_path / "artifacts").as_uri()),
        )
        made.append(Agent(tmp_path, settings))
        return made[-1]

    yield one
    for agent in made:
        with contextlib.suppress(ProcessLookupError):
            agent.process and agent.send(signal.SIGCONT)
        await agent.kill()


@pytest_asyncio.fixture(loop_scope="session")
async def ask(broker):
    async with client.connect(broker.url) as one:
        yield one


@pytest.fixture
def go(tmp_path):
    return tmp_path / "go"


def chained(trace, go):
    """Describe a, b, c, of which b waits for a file."""

    def work(name, **more):
        inputs = {"inputs": {"report": more.pop("after")}} if "after" in more else {}
        return stage(name, "service.work", {"trace": str(trace), "name": name, **more}, **inputs)

    return [work("a"), work("b", after="a", until=str(go)), work("c", after="b")]


def count(trace):
    """Count how often each stage began."""
    return collections.Counter(line.split()[0] for line in helpers.lines(trace) if "began" in line)


async def check_journal(ask, run_id):
    """Hold a journal to what is promised, whatever its agents went through."""
    raw, found = await helpers.commits(ask, run_id)
    assert chain.verify(raw, run_id) == []
    told = [event for commit in found for event in commit.events]
    succeeded = collections.Counter(
        (one.stage, one.element) for one in helpers.of(told, events.StageSucceeded)
    )
    assert set(succeeded.values()) <= {1}
    attempts = collections.Counter(
        (one.stage, one.element, one.attempt)
        for one in helpers.of(told, events.StageStarted)
        if not one.adopted
    )
    assert set(attempts.values()) <= {1}
    return told


async def adopted(ask, run_id):
    """Wait until an attempt goes on under another agent than the one that had it begun."""
    async with asyncio.timeout(helpers.WAIT_S):
        async for entry in ask.follow(run_id):
            if isinstance(entry.event, events.StageStarted) and entry.event.adopted:
                return


async def test_a_killed_agent_s_run_goes_on_where_it_was(make, ask, trace, go):
    agent = make("one")
    await agent.start()
    run_id = await helpers.submit(ask, *chained(trace, go))
    await helpers.wait_line(trace, "b began")
    await helpers.wait_event(ask, run_id, events.StageStarted, "b")
    await agent.kill()
    await agent.start()
    await adopted(ask, run_id)
    go.touch()
    status = await helpers.ended(ask, run_id)
    assert status.state == "succeeded"
    assert count(trace) == {"a": 1, "b": 1, "c": 1}
    assert {one.attempt for one in helpers.by_id(status).values()} == {1}
    told = await check_journal(ask, run_id)
    (recovered,) = helpers.of(told, events.RunRecovered)
    assert recovered.epoch == 2


async def test_an_agent_that_is_killed_again_while_it_recovers_loses_nothing(make, ask, trace, go):
    agent = make("one")
    await agent.start()
    run_id = await helpers.submit(ask, *chained(trace, go))
    await helpers.wait_line(trace, "b began")
    await helpers.wait_event(ask, run_id, events.StageStarted, "b")
    for times in range(1, 4):
        await agent.kill()
        starting = asyncio.ensure_future(agent.start())
        await _recovered(ask, run_id, times)
        await starting
    go.touch()
    status = await helpers.ended(ask, run_id)
    assert status.state == "succeeded"
    assert (count(trace)["a"], count(trace)["c"]) == (1, 1)
    assert len(helpers.of(await check_journal(ask, run_id), events.RunRecovered)) == 3


async def _recovered(ask, run_id, times):
    """Wait until a run was recovered so many times; the next kill meets it at its first steps."""
    seen = 0
    async with asyncio.timeout(helpers.WAIT_S):
        async for entry in ask.follow(run_id):
            seen += isinstance(entry.event, events.RunRecovered)
            if seen == times:
                return


async def test_a_fan_survives_kills_at_any_point(make, ask, trace):
    agent = make("one")
    await agent.start()
    fan = stage(
        "f",
        "service.each",
        {"trace": str(trace), "seconds": 0.05},
        for_each={"items": "l", "max_parallel": 4},
    )
    run_id = await helpers.submit(
        ask,
        stage("l", "sample.items", {"items": list(range(40))}),
        fan,
        stage("g", "service.gather", inputs={"numbers": "f"}),
    )
    for done in (3, 15):
        await helpers.wait_until(lambda done=done: len(helpers.lines(trace)) >= done)
        await agent.kill()
        await agent.start()
    status = await helpers.ended(ask, run_id)
    assert helpers.by_id(status)["g"].metrics == {"count": 40.0, "sum": 780.0}
    told = await check_journal(ask, run_id)
    assert len(helpers.of(told, events.RunRecovered)) == 2
    # Twice four elements were at work at most; everything else ran once.
    assert 40 <= len(helpers.lines(trace)) <= 48


async def test_an_agent_that_is_told_to_stop_hands_its_runs_back(make, ask, trace, go):
    agent = make("one", lease_s=60.0)
    await agent.start()
    run_id = await helpers.submit(ask, *chained(trace, go))
    await helpers.wait_line(trace, "b began")
    await helpers.wait_event(ask, run_id, events.StageStarted, "b")
    agent.send(signal.SIGTERM)
    assert await agent.ended() == 0, agent.log.read_text()[-3000:]
    with pytest.raises(client.AgentUnavailable):
        await ask.status(run_id)
    await agent.start()
    await adopted(ask, run_id)  # well before the lease is over
    go.touch()
    assert (await helpers.ended(ask, run_id)).state == "succeeded"
    assert count(trace) == {"a": 1, "b": 1, "c": 1}
    await check_journal(ask, run_id)
    assert "error" not in agent.log.read_text().lower()


async def test_another_agent_takes_over_within_the_lease(make, ask, trace, go):
    lease = 2.0
    first = make("first", lease)
    await first.start()
    run_id = await helpers.submit(ask, *chained(trace, go))
    await helpers.wait_line(trace, "b began")
    second = make("second", lease)
    await second.start()
    await first.kill()
    killed = dt.datetime.now(dt.UTC)
    recovered = await helpers.wait_event(ask, run_id, events.RunRecovered)
    assert recovered.owner == "second"
    assert recovered.at - killed < dt.timedelta(seconds=lease + 1)
    assert (await ask.status(run_id)).owner == "second"
    go.touch()
    assert (await helpers.ended(ask, run_id)).state == "succeeded"
    assert count(trace) == {"a": 1, "b": 1, "c": 1}
    await check_journal(ask, run_id)


async def test_a_command_reaches_a_run_that_another_agent_holds(make, ask, trace, go):
    agents = [make("first"), make("second")]
    for agent in agents:
        await agent.start()
    for _ in range(6):  # either agent may answer, and either may hold the run
        trace.unlink(missing_ok=True)
        run_id = await helpers.submit(ask, *chained(trace, go))
        await helpers.wait_line(trace, "b began")
        await ask.cancel(run_id, grace_s=5)
        receipt = (await helpers.story(ask, run_id))[-1]
        assert isinstance(receipt, events.RunCancelled)
        assert [(one.stage, one.how) for one in receipt.stopped] == [("b", "asked")]


async def test_an_agent_that_was_frozen_is_fenced_off(make, ask, trace, go):
    first = make("first")
    await first.start()
    ship = stage("ship", "service.ship", {"trace": str(trace)}, inputs={"report": "b"})
    run_id = await helpers.submit(ask, *chained(trace, go), ship)
    await helpers.wait_line(trace, "b began")
    await helpers.wait_event(ask, run_id, events.StageStarted, "b")
    first.send(signal.SIGSTOP)
    second = make("second")
    await second.start()
    recovered = await helpers.wait_event(ask, run_id, events.RunRecovered)
    assert recovered.owner == "second"
    first.send(signal.SIGCONT)
    go.touch()  # now both have a result for b
    status = await helpers.ended(ask, run_id)
    assert (status.state, status.owner) == ("succeeded", "second")
    assert count(trace)["shipped"] == 1  # what is outside is touched only by the owner
    await check_journal(ask, run_id)
    await second.kill()
    after, _ = await helpers.done(ask, stage("a", "sample.noop"))
    assert (after.state, after.owner) == ("succeeded", "first")
