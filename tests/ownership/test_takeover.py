"""Two agents on one queue: one dies, freezes, is cut off or told to stop; judged by the journal."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal

import pytest

from tests.ownership import cases
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]


async def test_a_killed_agent_s_run_is_another_s_in_time(case):
    first = await case.agent("first")
    run_id, _ = await case.at_work()
    await case.agent("second")
    since = cases.now()
    await first.kill()
    await case.taken(run_id, since)
    await case.goes_on(run_id)


async def test_a_frozen_agent_lets_its_run_go_as_soon_as_it_wakes_and_harms_nothing(case):
    first = await case.agent("first")
    run_id, pid = await case.at_work()
    second = await case.agent("second")
    since = cases.now()
    first.send(signal.SIGSTOP)
    await case.taken(run_id, since)
    await case.adopted(run_id)
    first.send(signal.SIGCONT)
    await helpers.wait_until(lambda: "run.lost" in first.log.read_text())
    assert not helpers.is_gone(pid)
    await case.goes_on(run_id)
    await case.takes_new_work("first", second)


async def test_an_agent_that_wakes_with_a_result_appends_nothing_of_it(case):
    first = await case.agent("first")
    run_id, _ = await case.at_work()
    second = await case.agent("second")
    since = cases.now()
    first.send(signal.SIGSTOP)
    await case.taken(run_id, since)
    case.go.touch()  # the worker's result goes to both
    await helpers.story(case.ask, run_id)
    first.send(signal.SIGCONT)
    await helpers.wait_until(lambda: "run.lost" in first.log.read_text())
    await case.goes_on(run_id)
    await case.takes_new_work("first", second)


@pytest.mark.parametrize("healed", ["mend", "replace"])
async def test_an_agent_that_is_cut_off_lets_its_run_go_by_its_own_clock(case, wire, healed):
    first = await case.agent("first", wire.url)
    run_id, pid = await case.at_work()
    second = await case.agent("second")
    since = cases.now()
    wire.cut()
    await case.taken(run_id, since)
    await helpers.wait_until(lambda: "run.lost" in first.log.read_text())
    assert not helpers.is_gone(pid)
    getattr(wire, healed)()  # what it sent meanwhile arrives late, or never
    await case.goes_on(run_id)
    await case.takes_new_work("first", second)


async def test_a_result_that_was_on_the_wire_for_longer_than_a_lease_is_refused(case, wire):
    first = await case.agent("first", wire.url)
    run_id, _ = await case.at_work()
    second = await case.agent("second")
    since = cases.now()
    wire.cut()
    case.go.touch()
    await helpers.wait_line(case.trace, "b ended")
    await case.taken(run_id, since)
    await helpers.story(case.ask, run_id)
    await helpers.wait_until(lambda: "run.lost" in first.log.read_text())
    wire.mend()
    await case.goes_on(run_id)
    await case.takes_new_work("first", second)


async def test_an_agent_that_is_told_to_stop_hands_over_without_waiting_for_a_lease(case):
    first = await case.agent("first")
    run_id, pid = await case.at_work()
    await case.agent("second")
    since = cases.now()
    first.send(signal.SIGTERM)
    await case.taken(run_id, since, dt.timedelta(seconds=cases.LEASE_S / 2))
    assert await first.ended() == 0
    assert not helpers.is_gone(pid)
    await case.goes_on(run_id)
    await helpers.wait_until(lambda: helpers.is_gone(pid))


async def test_a_rolling_upgrade_under_load_loses_nothing(case):
    agents = [await case.agent("one"), await case.agent("two")]

    async def load():
        accepted = []
        for number in range(20):
            accepted.append(await case.ask.enqueue(helpers.request(*_small(case, number))))
            await asyncio.sleep(0.3)  # spread over the upgrade
        return accepted

    loading = asyncio.ensure_future(load())
    for agent in agents:
        agent.send(signal.SIGTERM)
        assert await agent.ended() == 0, agent.log.read_text()[-3000:]
        await agent.start()
    accepted = await loading
    for run_id in accepted:
        assert (await helpers.ended(case.ask, run_id)).state == "succeeded"
    found = await case.judged(*accepted)
    assert found.findings == []
    assert found.runs == len(accepted)
    assert found.takeovers > 0


def _small(case, number):
    told = {"trace": str(case.trace), "seconds": 0.15}
    found, before = [], {}
    for name in (f"r{number}{letter}" for letter in "abc"):
        found.append(stage(name, "service.work", told | {"name": name}, **before))
        before = {"inputs": {"report": name}}
    return found
