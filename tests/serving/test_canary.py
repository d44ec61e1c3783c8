"""New versions under constant load: taken in by steps or moved back, and nobody's request fails."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
import pytest_asyncio

from protocol import client, events
from tests.service import helpers
from tests.serving import load
from tests.serving.place_of_work import WAIT_S, wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("serving"),
]
QUICK = {"steps": [20, 60], "hold_s": 0.5, "min_requests": 20, "max_latency_ratio": 20}
LONG = {**QUICK, "steps": [30], "hold_s": 600}


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def nothing_left(work):
    """Leave no model behind: each has a process."""
    yield
    async with work.asking() as ask:
        for one in (await ask.endpoints()).endpoints:
            await ask.undeploy(one.name)


async def begin(ask, name, slope, *, kind="line", x=(1.0,), truth=0.0, **params):
    """Ask for a version; give the run."""
    fit = helpers.stage("fit", "serving.fit", {"slope": slope, "kind": kind})
    rows = helpers.stage("rows", "serving.rows", {"x": list(x), "slope": truth})
    inputs = {"model": "fit", "rows": "rows"}
    go = helpers.stage("go", "deploy.model", {"name": name, **params}, inputs=inputs)
    return await helpers.submit(ask, fit, rows, go)


async def end(ask, run_id):
    async with asyncio.timeout(WAIT_S):
        told = [entry.event async for entry in ask.follow(run_id)]
    return await ask.status(run_id), told


async def deploy(ask, *given, **params):
    return await end(ask, await begin(ask, *given, **params))


async def serves(ask, name, **params):
    """Have a first version, of slope 1; give its URL and its version."""
    status, told = await deploy(ask, name, 1.0, **params)
    assert status.state == "succeeded", status
    (deployed,) = helpers.of(told, events.StageDeployed)
    return deployed.url, deployed.version


async def wait_share(ask, run_id, percent):
    """Wait until the journal has it that a new version gets a share of the requests."""
    async with asyncio.timeout(WAIT_S):
        async for entry in ask.follow(run_id):
            if isinstance(entry.event, events.StageShifted) and entry.event.percent == percent:
                return entry.event
    raise AssertionError


def shifted(told):
    return [(one.phase, one.percent) for one in helpers.of(told, events.StageShifted)]


async def only(ask, name, version):
    """Say that one version has all requests, and that no other is written down."""
    (listed,) = (await ask.endpoints(name)).endpoints
    assert [one.version for one in listed.versions] == [version]
    async with load.constant(listed.url) as asking:
        await asking.wait_more(30)
    assert set(asking.versions) == {version}


async def test_a_version_takes_over_by_steps_and_no_request_fails(ask):
    url, before = await serves(ask, "steps")
    async with load.constant(url) as asking:
        status, told = await deploy(ask, "steps", 2.0, canary=QUICK)
        await asking.wait_more(20)
    assert status.state == "succeeded", status
    assert asking.failed == []
    (deployed,) = helpers.of(told, events.StageDeployed)
    assert set(asking.versions) == {before, deployed.version}
    assert shifted(told) == [("canary", 20), ("canary", 60), ("serves", 100)]
    last = helpers.of(told, events.StageShifted)[-1]
    assert (last.before, last.version) == (before, deployed.version)
    assert last.measured["requests"] >= 20
    assert last.measured["errors"] == 0
    (stored,) = helpers.of(told, events.StageSucceeded, "go")
    assert stored.metrics == last.measured
    await only(ask, "steps", deployed.version)


async def test_a_version_that_refuses_what_the_one_before_answers_moves_back(ask):
    url, before = await serves(ask, "errors", kind="patient")
    async with load.constant(url, (load.ROW, load.MISSING)) as asking:
        status, told = await deploy(ask, "errors", 2.0, canary=QUICK)
        await asking.wait_more(20)
    assert status.state == "failed"
    assert status.problem.code == "denied"
    assert "requests failed" in status.problem.message
    assert asking.failed == []
    assert shifted(told) == [("canary", 20), ("rolled_back", 0)]
    assert "requests failed" in helpers.of(told, events.StageShifted)[-1].reason
    await only(ask, "errors", before)


async def test_a_version_that_is_slow_moves_back(ask):
    url, before = await serves(ask, "slow")
    slow = {**QUICK, "max_latency_ratio": 2, "hold_s": 60}
    async with load.constant(url, (load.ROW,)) as asking:
        status, told = await deploy(ask, "slow", 2.0, kind="slow", canary=slow)
    assert status.problem.code == "denied", status
    assert "95th percentile" in status.problem.message
    assert asking.failed == []
    assert shifted(told)[-1] == ("rolled_back", 0)
    await only(ask, "slow", before)


async def test_a_shadow_answers_nobody_and_is_compared(ask):
    url, before = await serves(ask, "shadow")
    shadow = {**QUICK, "steps": [0]}
    async with load.constant(url) as asking:
        status, told = await deploy(ask, "shadow", 2.0, canary={**shadow, "max_different": 0.1})
    assert status.problem.code == "denied", status
    assert "answers are different, at most 10.00% may be" in status.problem.message
    assert shifted(told) == [("canary", 0), ("rolled_back", 0)]
    assert (set(asking.versions), asking.failed) == ({before}, [])
    async with load.constant(url) as asking:
        status, told = await deploy(ask, "shadow", 2.0, canary=shadow)
    assert status.state == "succeeded", status
    (stored,) = helpers.of(told, events.StageSucceeded, "go")
    assert stored.metrics["different"] == stored.metrics["requests"] >= 20
    assert asking.failed == []


async def test_a_version_that_is_worse_on_held_back_rows_gets_no_request(ask):
    url, before = await serves(ask, "metric")
    rows = {"x": (1.0, 2.0, 3.0), "truth": 1.0, "max_worse": 0.1}
    async with load.constant(url) as asking:
        status, told = await deploy(ask, "metric", 1.5, canary=QUICK, **rows)
    assert status.problem.code == "denied", status
    assert "rmse" in status.problem.message
    assert shifted(told) == []
    assert set(asking.versions) == {before}
    status, told = await deploy(ask, "metric", 1.5, **(rows | {"truth": 1.4}))
    assert status.state == "succeeded", status
    (stored,) = helpers.of(told, events.StageSucceeded, "go")
    assert stored.metrics["rmse"] < stored.metrics["before_rmse"]


async def test_a_canary_whose_process_dies_moves_back_and_no_request_fails(work, ask):
    url, before = await serves(ask, "dies")
    known = work.replicas()
    async with load.constant(url) as asking:
        run_id = await begin(ask, "dies", 2.0, canary=LONG)
        await wait_share(ask, run_id, 30)
        (replica,) = work.replicas() - known
        await asking.wait_more(50)
        os.kill(replica, signal.SIGKILL)
        status, told = await end(ask, run_id)
        await asking.wait_more(20)
    assert status.problem.code == "denied", status
    assert asking.failed == []
    assert shifted(told) == [("canary", 30), ("rolled_back", 0)]
    await only(ask, "dies", before)
    await wait_until(lambda: work.replicas() == known)


async def test_a_canary_that_nobody_asks_anything_notices_that_its_process_died(work, ask):
    await serves(ask, "quiet")
    known = work.replicas()
    run_id = await begin(ask, "quiet", 2.0, canary=LONG)
    await wait_share(ask, run_id, 30)
    (replica,) = work.replicas() - known
    os.kill(replica, signal.SIGKILL)
    status, _ = await end(ask, run_id)
    assert "one of its replicas has died" in status.problem.message


async def test_a_canary_that_too_few_ask_anything_shows_nothing(ask):
    _, before = await serves(ask, "few")
    status, _ = await deploy(ask, "few", 2.0, canary={**QUICK, "wait_s": 1})
    assert "only 0 of 20 requests came" in status.problem.message
    await only(ask, "few", before)


async def test_while_a_canary_goes_on_others_are_deployed_and_operators_see_the_shares(work, ask):
    url, before = await serves(ask, "shown")
    async with load.constant(url):
        run_id = await begin(ask, "shown", 2.0, canary=LONG)
        await wait_share(ask, run_id, 30)
        await serves(ask, "other")
        (listed,) = (await ask.endpoints("shown")).endpoints
        assert [round(one.weight, 6) for one in listed.versions] == [0.7, 0.3]
        assert listed.versions[0].version == before
        assert "(30%)" in work.mlpm("endpoints").stdout.replace("\n", "")
        assert (await ask.roll_back("shown", by="ada", reason="enough")).state == "serving"
        status, told = await end(ask, run_id)
    assert (status.problem.code, status.problem.message) == (
        "denied",
        "it was rolled back by ada: enough",
    )
    assert shifted(told)[-1] == ("rolled_back", 0)
    await only(ask, "shown", before)


async def test_a_rollback_by_hand_brings_the_version_before_back_at_once(work, ask):
    url, first = await serves(ask, "back")
    with pytest.raises(client.Refused, match="no version of 'back' has served before"):
        await ask.roll_back("back")
    _, told = await deploy(ask, "back", 2.0)
    (second,) = helpers.of(told, events.StageDeployed)
    warm = work.replicas()
    async with load.constant(url) as asking:
        there = await ask.roll_back("back", by="ada")
        assert (there.versions[0].version, there.before) == (first, second.version)
        assert work.replicas() <= warm  # it was kept running
        await asking.wait_more(20)
        done = work.mlpm("rollback", "back", "--reason", "a mistake")  # it is started again first
        assert (done.returncode, second.version in done.stdout) == (0, True), done.stderr
        await asking.wait_more(20)
    assert asking.failed == []
    await only(ask, "back", second.version)


async def test_a_canary_goes_on_without_its_agent_and_the_next_one_hears_of_its_end(work):
    async with work.asking() as ask:
        url, before = await serves(ask, "agent")
        known = work.replicas()
        run_id = await begin(ask, "agent", 2.0, canary={**QUICK, "hold_s": 2})
        await wait_share(ask, run_id, 20)
        (replica,) = work.replicas() - known
    async with load.constant(url) as asking:
        await work.agent.kill()  # and its bus with it
        await work.agent.start()
        async with work.asking() as ask:
            status, told = await end(ask, run_id)
    assert status.state == "succeeded", status
    assert asking.failed == []
    assert shifted(told) == [("canary", 20), ("canary", 20), ("canary", 60), ("serves", 100)]
    assert work.replicas() - known == {replica}  # it was not begun anew
    (deployed,) = helpers.of(told, events.StageDeployed)
    assert set(asking.versions) == {before, deployed.version}


async def test_a_host_that_dies_in_a_canary_comes_back_with_the_version_before(work, ask):
    url, before = await serves(ask, "host")
    first = work.host
    run_id = await begin(ask, "host", 2.0, canary={**QUICK, "min_requests": 60, "hold_s": 2})
    await wait_share(ask, run_id, 20)
    os.kill(first.pid, signal.SIGKILL)
    await wait_until(lambda: work.host and work.host.pid != first.pid)
    assert (await work.wait_slope("host"))[1] == before
    async with load.constant(url) as asking:
        status, told = await end(ask, run_id)
    assert status.state == "succeeded", status
    assert asking.failed == []
    assert shifted(told).count(("canary", 20)) == 2  # it goes the whole way anew
    assert shifted(told)[-1] == ("serves", 100)
