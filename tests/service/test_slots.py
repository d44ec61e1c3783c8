"""An agent that holds one run at a time: who comes first, and what a waiting run costs."""

from __future__ import annotations

import asyncio

import pytest_asyncio

from agent import config, service
from protocol import client, events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def narrow(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    runs = config.Runs(max_active=1, lease_s=helpers.LEASE_S)
    settings = helpers.settings(tmp_path_factory.mktemp("narrow"), runs=runs)
    async with service.running(settings, modules=helpers.MODULES) as agent:
        yield agent


@pytest_asyncio.fixture(loop_scope="session")
async def ask(narrow):
    async with client.connect(narrow.nats_url) as one:
        yield one


async def test_the_higher_priority_is_taken_first(ask, trace, tmp_path):
    go = tmp_path / "go"

    def work(name, **params):
        return stage("a", "service.work", {"trace": str(trace), "name": name, **params})

    first = await helpers.submit(ask, work("first", until=str(go)))
    await helpers.wait_line(trace, "first began")
    names = {"low": 1, "high": 9, "middle": 5, "lowest": 0, "higher": 8}
    waiting = [await helpers.submit(ask, work(name), priority=p) for name, p in names.items()]
    assert {(await ask.status(run_id)).state for run_id in waiting} == {"queued"}
    go.touch()
    for run_id in [first, *waiting]:
        assert (await helpers.ended(ask, run_id)).state == "succeeded"
    order = [line.split()[0] for line in helpers.lines(trace) if "began" in line]
    assert order == ["first", "high", "higher", "middle", "low", "lowest"]


async def test_a_waiting_run_costs_no_slot(ask):
    gate = stage("g", "sample.noop", approval={})
    parked = [await helpers.submit(ask, gate) for _ in range(3)]
    for run_id in parked:
        await helpers.wait_state(ask, run_id, "waiting")
    assert (await helpers.done(ask, stage("a", "sample.noop")))[0].state == "succeeded"
    for run_id in parked:
        await ask.approve(run_id, "g")
    found = await asyncio.gather(*(helpers.ended(ask, run_id) for run_id in parked))
    assert {status.state for status in found} == {"succeeded"}


async def test_a_queued_run_is_cancelled_without_ever_starting(ask, trace, tmp_path):
    go = tmp_path / "go"
    held = stage("a", "service.work", {"trace": str(trace), "until": str(go)})
    first = await helpers.submit(ask, held)
    await helpers.wait_line(trace, "began")
    queued = await helpers.submit(ask, held)
    assert (await ask.cancel(queued)).state == "cancelled"
    go.touch()
    assert (await helpers.ended(ask, first)).state == "succeeded"
    told = await helpers.story(ask, queued)
    assert helpers.of(told, events.StageStarted) == []
    assert len(helpers.lines(trace)) == 2
