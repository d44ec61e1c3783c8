"""Every agent shows that it is there and what it takes on, and obeys whoever controls it."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from agent.bus import endpoints, tickets
from agent.execution import cluster
from agent.swarm import gauge, member, stance
from protocol import client, codec, commands, roster, swarm
from tests.swarm import helpers
from tests.swarm.helpers import half

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)


def card(agent, age_s=0.0, state="ready"):
    at = NOW - dt.timedelta(seconds=age_s)
    return swarm.AgentCard(agent, "ml-pipeline-manager", "0", [], 1, 0, state, at)


def test_who_has_not_been_heard_of_for_long_is_gone_whatever_is_still_kept():
    cards = [
        card("b", swarm.GONE_AFTER_S - 1),
        card("old", swarm.GONE_AFTER_S + 1),
        card("a"),
        card("stopped", state="stopped"),
        card("draining", state="draining"),
    ]
    assert [one.agent for one in roster.present(cards, NOW)] == ["a", "b", "draining"]


async def test_a_card_is_heard_and_kept(nc, names, artifacts, nats_url):
    heard = await nc.subscribe(names.presence("taker"))
    async with half(nc, names, artifacts, capacity=3) as one:
        message = await heard.next_msg(timeout=5)
        shown = codec.decode(message.data, swarm.AgentCard)
        assert (shown.agent, shown.capacity, shown.load, shown.state) == ("taker", 3, 0, "ready")
        assert shown.capabilities == one.stages.names()
        async with client.connect(nats_url) as asking:
            assert list(await asking.agents()) == [shown]
        await one.member.leave()
        assert codec.decode((await heard.next_msg(timeout=5)).data, swarm.AgentCard).state == (
            "stopped"
        )
        async with client.connect(nats_url) as asking:
            assert list(await asking.agents()) == []


async def test_the_bucket_is_one_that_key_value_clients_read(nc, names, artifacts):
    async with half(nc, names, artifacts):
        bucket = await nc.jetstream().key_value(names.presence_bucket)
        entry = await bucket.get("taker")
        assert codec.decode(entry.value, swarm.AgentCard).agent == "taker"
        status = await bucket.status()
        assert status.ttl == swarm.GONE_AFTER_S


async def test_no_bucket_means_that_nobody_is_there(nats_url):
    async with client.connect(nats_url, prefix="elsewhere") as asking:
        assert list(await asking.agents()) == []


def test_capacity_is_what_is_chosen_or_else_what_the_cluster_has():
    one = stance.Stance(None)
    one.measured(8, short=False)
    assert (one.capacity, one.has_room) == (8, True)
    one.choose(3)
    one.measured(16, short=False)
    assert one.capacity == 3
    one.choose(None)
    assert one.capacity == 16
    configured = stance.Stance(2)
    configured.measured(8, short=False)
    configured.choose(5)
    configured.choose(None)
    assert configured.capacity == 2


def test_without_memory_nothing_more_is_taken():
    one = stance.Stance(4)
    with one.working():
        one.measured(4, short=True)
        assert (one.capacity, one.has_room) == (1, False)
        one.measured(4, short=False)
        assert (one.capacity, one.has_room) == (4, True)


async def test_serving_pauses_while_an_agent_drains():
    one = stance.Stance(1)
    began, ended = asyncio.Queue(), asyncio.Queue()

    async def serve():
        began.put_nowait(None)
        try:
            await asyncio.Event().wait()
        finally:
            ended.put_nowait(None)

    serving = asyncio.create_task(one.while_ready(serve))
    async with asyncio.timeout(helpers.WAIT_S):
        await began.get()
        one.become("draining")
        await ended.get()
        assert began.empty()
        one.become("ready")
        await began.get()
        serving.cancel()
        await ended.get()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_what_breaks_while_serving_is_seen():
    async def serve():
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the very one
        await stance.Stance(1).while_ready(serve)


@pytest.fixture
async def waiting(nc, names):
    """Give a queue in which three runs wait."""
    queue = tickets.Tickets(nc, names, lease_s=30.0)
    await queue.open()
    for number in range(3):
        await queue.put(f"run-{number}", number, "t")
    yield queue
    await queue.close()


async def test_only_what_nobody_has_taken_counts_as_waiting(waiting):
    assert await waiting.waiting() == 3
    taken = await waiting.take()
    assert await waiting.waiting() == 2
    await taken.done()
    assert await waiting.waiting() == 2


@pytest.mark.parametrize(("bound", "accepted"), [(None, True), (4, True), (3, False), (0, False)])
async def test_requests_are_let_in_up_to_a_bound_of_waiting_runs(waiting, bound, accepted):
    async def submit(request, _caller):
        return commands.RunAccepted("run", request.request_id)

    porter = member.Porter(submit, stance.Stance(1), waiting.waiting, bound)
    asked = client.make_request(pipeline={"name": "p", "stages": [{"id": "a", "use": "b.c"}]})
    if accepted:
        assert (await porter.submit(asked, endpoints.Caller())).request_id == asked.request_id
        return
    with pytest.raises(endpoints.Refusal) as refused:
        await porter.submit(asked, endpoints.Caller())
    problem = refused.value.problem
    assert (problem.code, problem.retryable) == ("overloaded", True)
    assert problem.message.startswith("3 runs wait")


@pytest.mark.ray
async def test_the_cluster_is_measured(ray_cluster):
    one = stance.Stance(None)
    here = cluster.Cluster(ray_cluster.address, ray_cluster.cpus, remote=False)
    await gauge.Gauge(here, 1).measure(one)
    assert (one.capacity, one.has_room) == (2, True)
    await gauge.Gauge(here, 2**60).measure(one)
    assert not one.has_room
    elsewhere = msgspec.structs.replace(here, remote=True)
    await gauge.Gauge(elsewhere, 1).measure(one)
    assert one.has_room
    await gauge.Gauge(elsewhere, 2**60).measure(one)
    assert not one.has_room


@pytest.mark.ray
async def test_a_follower_that_breaks_keeps_neither_the_others_nor_the_agent_from_it(ray_cluster):
    def breaks(_):
        raise ValueError

    told = []
    here = gauge.Gauge(cluster.Cluster(ray_cluster.address, ray_cluster.cpus, remote=False), 1)
    here.follow(breaks)
    here.follow(told.append)
    await here.measure(stance.Stance(None))
    assert told == [2]
