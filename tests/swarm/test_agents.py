"""Two agents, each on its own Ray, share a pipeline's stages through one store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys

import msgspec
import pytest
import pytest_asyncio

from agent import config
from agent.bus import server
from protocol import client, codec, events, swarm
from tests.service import helpers
from tests.service.agent_process import ROOT, Agent
from tests.service.helpers import stage
from tests.swarm import helpers as swarming

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("swarm"),
]
OWNER = {"capabilities": ("none",), "max_active": 16}
"""Of an agent that conducts runs and takes no assignment; the others only take."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory):
    async with server.EmbeddedServer(tmp_path_factory.mktemp("broker") / "nats") as one:
        yield one


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agents(broker, shared):
    """Give a maker of agents, each with a Ray of one CPU; all are killed at the end."""
    made = {}

    async def one(name, *, capabilities=("*",), max_active=0):
        if name not in made:
            settings = helpers.settings(
                shared / name,
                agent_id=name,
                nats=config.Nats(url=broker.url),
                ray=config.Ray(cpus=1, workers=1),
                artifacts=config.Artifacts(uri=(shared / "artifacts").as_uri()),
                swarm=config.Swarm(
                    capabilities=capabilities, capacity=1, lease_s=1.0, take_within_s=2.0
                ),
                runs=config.Runs(lease_s=1.0, max_active=max_active),
            )
            made[name] = Agent(shared, settings)
        if made[name].process is None or made[name].process.returncode is not None:
            await made[name].start()
        return made[name]

    yield one
    for agent in made.values():
        with contextlib.suppress(ProcessLookupError):
            agent.process and agent.send(signal.SIGCONT)
        await agent.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def ask(broker):
    async with client.connect(broker.url, timeout_s=1.0) as one:
        yield one


def far(trace, name="far", **params):
    asked = {"trace": str(trace), "name": name, **params}
    return stage(name, "service.work", asked, placement="swarm")


def began(trace, name="far"):
    return [one for one in helpers.lines(trace) if one.startswith(f"{name} began")]


async def there(ask, *names):
    """Wait until just these agents are there."""
    async with asyncio.timeout(helpers.WAIT_S):
        while {one.agent for one in await ask.agents()} != set(names):  # noqa: ASYNC110 - cards come and go
            await asyncio.sleep(0.05)
    return {one.agent: one for one in await ask.agents()}


async def reports(ask):
    return await swarming.kept_reports(ask._nats, ask.names)


async def mlpm(url, *arguments):
    """Call the program; give its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", "--url", url, *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


async def test_a_pipeline_s_stages_are_shared(agents, ask, trace, broker):
    await agents("owner", **OWNER)
    await agents("one")
    status, told = await helpers.done(
        ask,
        stage("a", "sample.items", {"items": [1, 2, 3]}),
        stage(
            "b",
            "service.each",
            {"trace": str(trace)},
            for_each={"items": "a"},
            placement="swarm",
        ),
        stage("c", "service.gather", inputs={"numbers": "b"}),
    )
    assert status.state == "succeeded"
    assert helpers.by_id(status)["c"].metrics == {"count": 3.0, "sum": 6.0}
    cards = await there(ask, "owner", "one")
    assert (cards["owner"].capabilities, cards["one"].capacity) == ([], 1)
    assert "service.each" in cards["one"].capabilities
    assert await reports(ask) == 3
    code, listed = await mlpm(broker.url, "agents")
    assert (code, "owner" in listed, "0/1" in listed) == (0, True, True)
    code, listed = await mlpm(broker.url, "agents", "--json")
    assert {one["agent"] for one in json.loads(listed)} == {"owner", "one"}
    (usage,) = {one.usage is not None for one in helpers.of(told, events.StageSucceeded, "b")[:1]}
    assert usage


async def test_a_killed_taker_s_work_is_done_by_another_and_reported_once(
    agents, ask, trace, tmp_path
):
    await agents("owner", **OWNER)
    one = await agents("one")
    go = tmp_path / "go"
    before = await reports(ask)
    run_id = await helpers.submit(ask, far(trace, until=str(go)))
    await helpers.wait_line(trace, "far began")
    await agents("two")
    await one.kill()
    await helpers.wait_until(lambda: len(began(trace)) == 2)
    go.touch()
    status = await helpers.ended(ask, run_id)
    assert (status.state, helpers.by_id(status)["far"].attempt) == ("succeeded", 1)
    assert len(began(trace)) == 2
    assert await reports(ask) == before + 1
    await swarming.wait_empty(ask._nats, ask.names)


async def test_a_cancellation_reaches_the_taker_and_its_receipt_says_so(agents, ask, trace):
    await agents("owner", **OWNER)
    await agents("two")
    run_id = await helpers.submit(ask, far(trace, seconds=60))
    line = await helpers.wait_line(trace, "far began")
    await ask.cancel(run_id, grace_s=10)
    told = await helpers.story(ask, run_id)
    (receipt,) = helpers.of(told, events.RunCancelled)
    (stopped,) = receipt.stopped
    assert (stopped.stage, stopped.how) == ("far", "asked")
    assert helpers.pid_of(stopped.where) == int(line.split()[-1])
    assert helpers.lines(trace)[-1] == "far stopped"


async def test_a_deaf_stage_is_killed_where_it_runs(agents, ask, trace):
    await agents("owner", **OWNER)
    await agents("two")
    run_id = await helpers.submit(ask, far(trace, seconds=60, deaf=True))
    line = await helpers.wait_line(trace, "far began")
    await ask.cancel(run_id, grace_s=0.3)
    (receipt,) = helpers.of(await helpers.story(ask, run_id), events.RunCancelled)
    assert receipt.stopped[0].how == "forced"
    assert helpers.is_gone(int(line.split()[-1]))


async def test_a_stage_whose_time_is_over_is_stopped_where_it_runs(agents, ask, trace):
    await agents("owner", **OWNER)
    await agents("two")
    slow = far(trace, seconds=60) | {"timeout_s": 0.5, "retry": {"max_attempts": 1}}
    status, _ = await helpers.done(ask, slow)
    assert status.stages[0].problem.code == "timeout"
    assert helpers.lines(trace)[-1] == "far stopped"


async def test_an_owner_that_is_killed_finds_what_was_done_meanwhile(agents, ask, trace, tmp_path):
    owner = await agents("owner", **OWNER)
    await agents("two")
    go = tmp_path / "go"
    run_id = await helpers.submit(ask, far(trace, until=str(go)))
    await helpers.wait_line(trace, "far began")
    await helpers.wait_event(ask, run_id, events.StageStarted, "far")
    await owner.kill()
    before = await reports(ask)
    go.touch()
    await helpers.wait_line(trace, "far ended")
    await agents("owner")
    status = await helpers.ended(ask, run_id)
    assert (status.state, status.stages[0].attempt) == ("succeeded", 2)
    assert len(began(trace)) == 1
    assert await reports(ask) == before + 1


async def test_a_frozen_taker_s_late_report_changes_nothing(agents, ask, trace, tmp_path):
    await agents("owner", **OWNER)
    two = await agents("two")
    go = tmp_path / "go"
    run_id = await helpers.submit(ask, far(trace, until=str(go)))
    await helpers.wait_line(trace, "far began")
    two.send(signal.SIGSTOP)
    await insist(lambda: ask.cancel(run_id, grace_s=0.2))
    (receipt,) = helpers.of(await helpers.story(ask, run_id), events.RunCancelled)
    assert "two" in receipt.stopped[0].where
    before = await reports(ask)
    go.touch()
    await helpers.wait_line(trace, "far ended")  # in its worker, before it hears that it is to stop
    two.send(signal.SIGCONT)
    await two.kill()  # it may find itself that it was frozen for too long, and end
    await agents("two")
    await swarming.wait_empty(ask._nats, ask.names)
    status = await insist(lambda: ask.status(run_id))
    assert (status.state, await reports(ask)) == ("cancelled", before)


async def insist(command):
    """Ask again while it is a frozen agent that was asked."""
    async with asyncio.timeout(helpers.WAIT_S):
        while True:
            with contextlib.suppress(client.NoAnswer):
                return await command()


async def control(ask, agent, action, **more):
    """Tell an agent what to do, and give its card."""
    body = msgspec.json.encode({"action": action, **more})
    reply = await ask._nats.request(ask.names.control(agent), body, timeout=5)
    return codec.decode(reply.data, swarm.AgentCard)


async def test_an_agent_is_controlled_and_says_that_it_is_overloaded(agents, ask):
    await agents("owner", **OWNER)
    two = await agents("two")
    assert (await control(ask, "two", "set_capacity", capacity=7)).capacity == 7
    assert (await control(ask, "two", "set_capacity")).capacity == 1
    for name in ("owner", "two"):
        assert (await control(ask, name, "drain")).state == "draining"
    with pytest.raises(client.Refused) as refused:
        await ask.submit(helpers.request(stage("a", "sample.noop")))
    problem = refused.value.problem
    assert (problem.code, problem.retryable) == ("overloaded", True)
    assert "after 5 s" in problem.hint
    queued = await ask.enqueue(helpers.request(stage("a", "sample.noop")))
    assert (await control(ask, "owner", "undrain")).state == "ready"
    async with asyncio.timeout(helpers.WAIT_S):
        while True:
            with contextlib.suppress(client.Refused):
                if (await ask.status(queued)).state == "succeeded":
                    break
            await asyncio.sleep(0.05)
    heard = await ask._nats.subscribe(ask.names.presence("two"))
    two.send(signal.SIGTERM)
    assert await two.ended() == 0, two.log.read_text()[-3000:]
    states = []
    while heard.pending_msgs:
        states.append(codec.decode((await heard.next_msg()).data, swarm.AgentCard).state)
    assert states[-1] == "stopped"
    await there(ask, "owner")


async def test_nobody_there_is_told_and_not_waited_for_without_end(agents, ask, trace):
    await agents("owner", **OWNER)
    await there(ask, "owner")
    alerts = await ask._nats.subscribe(ask.names.alert("warning"))
    lonely = far(trace) | {"retry": {"max_attempts": 1}}
    status, _ = await helpers.done(ask, lonely)
    problem = status.stages[0].problem
    assert (status.state, problem.code) == ("failed", "unavailable")
    assert "mlpm agents" in problem.hint
    alert = codec.decode((await alerts.next_msg(timeout=5)).data, swarm.Alert)
    assert (alert.stage, "service.work" in alert.message) == ("far", True)
