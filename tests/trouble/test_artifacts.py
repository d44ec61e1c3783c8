"""Artifacts that are spoiled, and stores that are away or full: found, told, and mended."""

from __future__ import annotations

import pathlib
import urllib.parse

import pytest
import pytest_asyncio

from agent import config, service
from protocol import client, events
from tests.service import helpers
from tests.service.helpers import stage

MODULES = (*helpers.MODULES, "tests.trouble.stages")
RETRY = {"max_attempts": 2, "backoff_s": 0.05}
pytestmark = helpers.MARKS


@pytest_asyncio.fixture(loop_scope="session")
async def agent(ray_cluster, tmp_path):  # noqa: ARG001 - the connection is the process's
    settings = helpers.settings(tmp_path / "agent")
    async with service.running(settings, modules=MODULES) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent):
    async with client.connect(agent.nats_url) as one:
        yield one


def counted(trace, until="", size=80_000):
    return [
        stage("rows", "trouble.rows", {"trace": str(trace), "size": size}, retry=RETRY),
        stage(
            "count", "trouble.count", {"until": str(until)}, inputs={"table": "rows"}, retry=RETRY
        ),
    ]


def file_of(told):
    """Give the file of the table that the run has made."""
    (made,) = helpers.of(told, events.StageSucceeded, "rows")
    return pathlib.Path(urllib.parse.urlsplit(made.outputs["table"].uri).path)


def flip(path):
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def move(source, target):
    assert not target.exists()
    source.rename(target)


def settled(trace):
    return len(helpers.lines(trace))


async def test_a_cached_result_that_is_spoiled_is_made_again(ask, trace):
    status, told = await helpers.done(ask, *counted(trace))
    assert status.state == "succeeded"
    flip(file_of(told))
    status, again = await helpers.done(ask, *counted(trace))
    assert status.state == "succeeded"
    assert settled(trace) == 2
    assert file_of(again) == file_of(told)
    _, whole = await helpers.done(ask, *counted(trace))
    assert settled(trace) == 2
    assert all(one.cached for one in helpers.of(whole, events.StageSucceeded))


@pytest.mark.parametrize("how", ["spoiled", "missing"])
async def test_an_input_that_is_lost_is_made_again_by_the_stage_that_the_failure_names(
    ask, trace, tmp_path, how
):
    go = tmp_path / "go"
    _, told = await helpers.done(ask, *counted(trace, go))
    run_id = told[0].run_id
    go.touch()
    lost = file_of(told)
    flip(lost) if how == "spoiled" else lost.unlink()
    await ask.resume(run_id)
    assert (await helpers.ended(ask, run_id)).state == "failed"
    *_, failed = helpers.of(await helpers.story(ask, run_id), events.StageFailed, "count")
    assert failed.problem.code == ("artifact_corrupt" if how == "spoiled" else "transient")
    assert f"mlpm resume {run_id} --from rows" in failed.problem.hint
    await ask.resume(run_id, from_stage="rows")
    assert (await helpers.ended(ask, run_id)).state == "succeeded"
    assert settled(trace) == 2


async def test_a_run_goes_on_once_its_store_is_back(ask, agent, trace, tmp_path):
    root = pathlib.Path(agent.settings.artifacts_uri.removeprefix("file://"))
    go, hidden = tmp_path / "go", tmp_path / "hidden"
    _, told = await helpers.done(ask, *counted(trace, go))
    run_id = told[0].run_id
    go.touch()
    move(root, hidden)
    await ask.resume(run_id, from_stage="rows")
    assert (await helpers.ended(ask, run_id)).state == "failed"
    told = await helpers.story(ask, run_id)
    *_, failed = helpers.of(told, events.StageFailed, "rows")
    assert failed.problem.code == "unavailable"
    assert str(root) in failed.problem.message
    assert "resume" in failed.problem.hint
    assert helpers.of(told, events.StageRetrying, "rows")
    move(hidden, root)  # nobody has begun another store in its place
    await ask.resume(run_id)
    assert (await helpers.ended(ask, run_id)).state == "succeeded"


@pytest.mark.usefixtures("ray_cluster")
async def test_a_full_disk_fails_the_stage_and_leaves_no_half_file(small_disk, trace, tmp_path):
    root = small_disk.folder / "artifacts"
    settings = helpers.settings(tmp_path / "agent", artifacts=config.Artifacts(uri=root.as_uri()))
    async with (
        service.running(settings, modules=MODULES) as agent,
        client.connect(agent.nats_url) as ask,
    ):
        small_disk.fill(but=2_000_000)
        _, told = await helpers.done(ask, *counted(trace, size=8_000_000))
        (failed,) = helpers.of(told, events.StageFailed, "rows")
        assert failed.problem.code == "transient"
        assert "disk" in failed.problem.hint
        assert len(helpers.of(told, events.StageRetrying, "rows")) == 1
        left = [path for path in root.rglob("*") if path.is_file()]
        assert left == []
        status, _ = await helpers.done(ask, stage("a", "sample.noop"))
        assert status.state == "succeeded"
        small_disk.empty()
        run_id = told[0].run_id
        await ask.resume(run_id)
        assert (await helpers.ended(ask, run_id)).state == "succeeded"
        assert list(root.glob("tmp/*")) == []
