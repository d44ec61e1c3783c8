"""Going on with a failed or cancelled run: what runs again, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from protocol import client, events
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS


def chain(trace, mended):
    """Describe a, b, c, of which b fails until a file is there."""

    def work(name, **fields):
        return stage(name, "service.work", {"trace": str(trace), "name": name}, **fields)

    return [
        work("a"),
        stage("b", "service.picky", {"file": str(mended)}, inputs={"report": "a"}),
        work("c", inputs={"report": "b"}),
    ]


def ran(trace):
    return [line.split()[0] for line in helpers.lines(trace) if "began" in line]


@pytest.fixture
def mended(tmp_path):
    return tmp_path / "mended"


async def test_finished_stages_do_not_run_again(ask, trace, mended):
    status, _ = await helpers.done(ask, *chain(trace, mended))
    states = {name: one.state for name, one in helpers.by_id(status).items()}
    assert states == {"a": "succeeded", "b": "failed", "c": "cancelled"}
    mended.touch()
    resumed = await ask.resume(status.run_id, by="me")
    assert resumed.problem is None
    told = await helpers.story(ask, status.run_id)
    after = await ask.status(status.run_id)
    assert after.state == "succeeded"
    assert ran(trace) == ["a", "c"]
    assert helpers.by_id(after)["b"].attempt == 2
    (event,) = helpers.of(told, events.RunResumed)
    assert (event.by, event.again, event.cause) == ("me", ["b", "c"], "commands/resume by me")
    assert event.code_version


async def test_a_chosen_stage_and_what_follows_it_run_again(ask, trace, mended):
    mended.touch()
    spared = stage("d", "service.work", {"trace": str(trace), "name": "d"})
    last = stage("e", "sample.fail", {"how": "data"}, needs=["c", "d"])
    status, _ = await helpers.done(ask, *chain(trace, mended), spared, last)
    assert status.state == "failed"
    await ask.resume(status.run_id, from_stage="b")
    told = await helpers.story(ask, status.run_id)
    assert helpers.of(told, events.RunResumed)[0].again == ["b", "c", "e"]
    assert sorted(ran(trace)) == ["a", "c", "c", "d"]


async def test_new_parameters_are_used_and_what_follows_runs_again(ask, trace, mended, tmp_path):
    status, _ = await helpers.done(ask, *chain(trace, mended))
    other = tmp_path / "other"
    other.touch()
    await ask.resume(status.run_id, params={"b": {"file": str(other)}})
    assert (await helpers.ended(ask, status.run_id)).state == "succeeded"
    assert ran(trace) == ["a", "c"]


async def test_a_cancelled_run_goes_on(ask, trace, tmp_path):
    go = tmp_path / "go"

    def work(name, **fields):
        told = {"trace": str(trace), "name": name}
        return stage(name, "service.work", told | fields.pop("more", {}), **fields)

    run_id = await helpers.submit(
        ask, work("a"), work("b", more={"until": str(go)}, inputs={"report": "a"})
    )
    await helpers.wait_line(trace, "b began")
    await ask.cancel(run_id)
    assert (await helpers.ended(ask, run_id)).state == "cancelled"
    go.touch()
    await ask.resume(run_id)
    status = await helpers.ended(ask, run_id)
    assert status.state == "succeeded"
    assert ran(trace) == ["a", "b", "b"]
    assert helpers.by_id(status)["b"].attempt == 2


async def test_a_run_may_be_resumed_as_soon_as_its_end_is_told(ask, trace, mended):
    status, _ = await helpers.done(ask, *chain(trace, mended))
    for tries in range(2, 8):
        await ask.resume(status.run_id)
        entries = ask.follow(status.run_id, from_start=False)
        async for entry in entries:
            if isinstance(entry.event, events.RunFailed):
                break
        await entries.aclose()
        assert helpers.by_id(await ask.status(status.run_id))["b"].attempt == tries


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"b": {"file": 3}}, ("invalid_field", "$.pipeline.stages[1].with.file")),
        ({"b": {"fil": "x"}}, ("unknown_field", "$.pipeline.stages[1].with.fil")),
        ({"nobody": {"file": "x"}}, ("not_found", None)),
    ],
)
async def test_bad_parameters_are_refused_and_change_nothing(ask, trace, mended, params, problem):
    status, told = await helpers.done(ask, *chain(trace, mended))
    with pytest.raises(client.Refused) as refused:
        await ask.resume(status.run_id, params=params)
    assert (refused.value.problem.code, refused.value.problem.path) == problem
    assert await helpers.story(ask, status.run_id) == told


async def test_only_a_finished_run_that_failed_can_be_resumed(ask, trace, tmp_path):
    go = tmp_path / "go"
    held = stage("a", "service.work", {"trace": str(trace), "until": str(go)})
    running = await helpers.submit(ask, held)
    await helpers.wait_line(trace, "began")
    good = (await helpers.done(ask, stage("a", "sample.noop")))[0].run_id
    for run_id, code in ((running, "conflict"), (good, "conflict"), ("nobody", "not_found")):
        with pytest.raises(client.Refused) as refused:
            await ask.resume(run_id)
        assert refused.value.problem.code == code
    with pytest.raises(client.Refused) as refused:
        await ask.resume(running, from_stage="nobody")
    assert refused.value.problem.code == "conflict"
    go.touch()
    assert (await helpers.ended(ask, running)).state == "succeeded"


async def test_a_resumed_run_s_list_line_goes_on_with_it(ask, trace, mended):
    status, _ = await helpers.done(ask, *chain(trace, mended))
    mended.touch()
    await ask.resume(status.run_id)
    await helpers.ended(ask, status.run_id)

    async def line():
        found = (await ask.list()).runs
        return next(one for one in found if one.run_id == status.run_id)

    async with asyncio.timeout(helpers.WAIT_S):
        while (await line()).state != "succeeded":  # noqa: ASYNC110 - the list follows the journal
            await asyncio.sleep(0.02)
    assert ((await line()).stages, (await line()).stages_done) == (3, 3)
