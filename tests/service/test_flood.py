"""Very many requests at once: they wait in the broker, by priority, and in fair shares."""

from __future__ import annotations

import asyncio
import collections

import nats
import psutil
import pytest
import pytest_asyncio

from agent import config
from agent.bus import server
from agent.conductor import backlog
from protocol import client, events, subjects
from tests.service import helpers
from tests.service.agent_process import Agent
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]
NAMES = subjects.Subjects()
FLOOD = 300
LARGE, BYTES = 2_000, 20_000
ENDED = (events.RunSucceeded, events.RunFailed, events.RunCancelled)


@pytest_asyncio.fixture(loop_scope="session")
async def broker(tmp_path):
    async with server.EmbeddedServer(tmp_path / "nats") as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def agent(broker, ray_cluster, tmp_path):
    """Give an agent that holds two runs at a time."""
    settings = helpers.settings(
        tmp_path / "agent",
        agent_id="one",
        nats=config.Nats(url=broker.url),
        ray=config.Ray(address=ray_cluster.address, workers=2),
        runs=config.Runs(max_active=2),
        artifacts=config.Artifacts(uri=(tmp_path / "artifacts").as_uri()),
    )
    one = Agent(tmp_path, settings)
    await one.start()
    yield one
    await one.kill()


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent, broker):  # noqa: ARG001 - it makes the streams
    async with client.connect(broker.url) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def js(agent, broker):  # noqa: ARG001 - it makes the streams
    connection = await nats.connect(broker.url)
    yield connection.jetstream()
    await connection.close()


def quick(requester, description="", **options):
    pipeline = {"name": "p", "stages": [stage("a", "sample.noop", placement="agent")]}
    pipeline |= {"description": description} if description else {}
    return client.make_request(pipeline=pipeline, requester=requester, options=options)


async def hold(ask, trace, go, count):
    """Keep all the agent's places until a file is there; give the runs."""
    params = {"trace": str(trace), "until": str(go)}
    held = [await helpers.submit(ask, stage("h", "service.work", params)) for _ in range(count)]
    await helpers.wait_until(lambda: len(helpers.lines(trace)) == count)
    return held


async def leave(ask, requests):
    """Leave requests in the queue, in this order; give their runs."""
    return [await ask.enqueue(one) for one in requests]


async def count(js, stream):
    return (await js.stream_info(stream)).state.messages


async def wait_accepted(js, runs):
    """Wait until that many runs are in the journal, beside what has begun."""
    async with asyncio.timeout(120):
        while await count(js, NAMES.intake_stream):  # noqa: ASYNC110 - the agent tells nobody
            await asyncio.sleep(0.1)
    assert (
        len((await js.stream_info(NAMES.journal_stream, subjects_filter=">")).state.subjects)
        == runs
    )


async def test_a_flood_waits_in_the_broker_and_others_get_their_turn_before_it(
    ask, js, trace, tmp_path
):
    go = tmp_path / "go"
    held = await hold(ask, trace, go, 2)
    greedy = await leave(ask, [quick("greedy") for _ in range(FLOOD)])
    modest = await leave(ask, [quick("modest") for _ in range(5)])
    urgent = await leave(ask, [quick("greedy", priority=9) for _ in range(3)])
    everyone = [*held, *greedy, *modest, *urgent]
    await wait_accepted(js, len(everyone))
    tickets = await count(js, NAMES.tickets_stream)
    assert tickets == len(held) + backlog.WINDOW + len(modest) + len(urgent)
    assert (await ask.status(greedy[-1])).state == "queued"
    go.touch()
    began, most = await _begun(ask, len(everyone))
    assert most <= 2
    place = {run_id: number for number, run_id in enumerate(began)}
    assert sorted(place[one] for one in held) == [0, 1]
    assert sorted(place[one] for one in urgent) == [2, 3, 4]
    ahead = len(held) + len(urgent) + backlog.WINDOW + len(modest)
    assert max(place[one] for one in modest) < ahead + 2  # those that are begun side by side
    assert max(place[one] for one in greedy) == len(everyone) - 1
    async with asyncio.timeout(helpers.WAIT_S):
        while await count(js, NAMES.tickets_stream):  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0.05)


async def _begun(ask, runs):
    """Give the runs in the order in which they began, and how many were at work at most."""
    began, at_work, most = [], set(), 0
    async with asyncio.timeout(120):
        async for entry in ask.tail(from_start=True):
            if isinstance(entry.event, events.RunStarted):
                began.append(entry.run_id)
                at_work.add(entry.run_id)
            elif isinstance(entry.event, ENDED):
                at_work.discard(entry.run_id)
                runs -= 1
            most = max(most, len(at_work))
            if not runs:
                return began, most
    raise AssertionError("unreachable")


async def test_an_agent_keeps_no_requests_in_memory(agent, ask, js, trace, tmp_path):
    go = tmp_path / "go"
    held = await hold(ask, trace, go, 2)
    await leave(ask, [quick("warm", "x" * BYTES) for _ in range(100)])
    await wait_accepted(js, 102)
    process = psutil.Process(agent.process.pid)
    before = process.memory_info().rss
    await leave(ask, [quick(f"r{number % 7}", f"{number:0>{BYTES}}") for number in range(LARGE)])
    await wait_accepted(js, 102 + LARGE)
    grown = process.memory_info().rss - before
    assert grown < LARGE * BYTES / 2, f"{grown / 2**20:.1f} MiB"
    states = collections.Counter([(await ask.status(one)).state for one in held])
    assert states == {"running": 2}
