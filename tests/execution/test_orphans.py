"""Two agents on one cluster: an attempt that the first had begun goes on under the second."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from agent import config, tasks
from agent.execution import base, pool, processes
from stages import kit
from tests.execution import helpers, nodes

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@pytest.fixture
async def agents(ray_cluster, artifacts, tmp_path):
    """Give two executors on one cluster that is neither's own."""
    shared = msgspec.structs.replace(ray_cluster, remote=True)

    def make():
        settings = config.Ray(workers=1)
        told = (shared, settings, artifacts.uri, tmp_path, kit.Services())
        return pool.RayExecutor(*told, modules=helpers.MODULES, lease_s=5.0)

    both = make(), make()
    yield both
    await asyncio.gather(*(one.close() for one in both))


def begun(use, **params):
    return msgspec.structs.replace(helpers.work(use, **params), heritable=True)


def inherited(piece, epoch=1):
    return msgspec.structs.replace(piece, epoch=epoch, adopt=True)


async def adopted(executor, piece):
    task, watcher = await helpers.start(executor, inherited(piece))
    assert watcher.at_work.is_set()
    return task


async def test_an_attempt_goes_on_with_its_progress_and_its_result(agents):
    first, second = agents
    piece = begun("sample.sleep", seconds=2.0)
    left, _ = await helpers.start(first, piece)
    assert await second.sharing.find([inherited(piece)]) == {piece.key}
    await tasks.end(left)
    task = await adopted(second, piece)
    assert isinstance(await task, base.Succeeded)


async def test_what_is_found_is_that_very_attempt(agents):
    first, second = agents
    piece = begun("sample.sleep", seconds=60.0)
    task, _ = await helpers.start(first, piece)
    other = msgspec.structs.replace(piece, params={"seconds": 61.0})
    assert await second.sharing.find([inherited(other)]) == frozenset()
    await first.stop(piece.key, force=True)
    assert isinstance(await task, base.Halted)
    assert await second.sharing.find([inherited(piece)]) == frozenset()


@pytest.mark.parametrize("force", [False, True])
async def test_a_late_former_owner_does_not_stop_it(agents, force):
    first, second = agents
    piece = begun("sample.sleep", seconds=2.0)
    late, _ = await helpers.start(first, piece)
    task = await adopted(second, piece)
    await first.stop(piece.key, force=force)
    await first.close()
    assert not isinstance(await late, base.Halted)
    assert isinstance(await task, base.Succeeded)


async def test_a_former_owner_gets_another_worker_for_what_comes_next(agents):
    first, second = agents
    piece = begun("sample.sleep", seconds=60.0)
    late, _ = await helpers.start(first, piece)
    task = await adopted(second, piece)
    outcome = await late
    assert outcome.problem.code == "preempted"
    following = await first.run(begun("sample.noop"), helpers.Watcher())
    assert isinstance(following, base.Succeeded)
    await second.stop(piece.key, force=True)
    assert (await task).how == "forced"


async def test_of_two_with_one_epoch_one_has_it(agents):
    piece = begun("sample.sleep", seconds=2.0)
    left, _ = await helpers.start(agents[0], piece)
    await tasks.end(left)
    both = await asyncio.gather(
        *(each.run(inherited(piece), helpers.Watcher()) for each in agents),
    )
    assert sum(isinstance(one, base.Succeeded) for one in both) == 1


@pytest.mark.parametrize("deaf", [False, True])
async def test_what_was_adopted_is_stopped_with_proof(agents, deaf):
    first, second = agents
    piece = begun("sample.sleep", seconds=60.0, deaf=deaf)
    left, _ = await helpers.start(first, piece)
    await tasks.end(left)
    task = asyncio.create_task(second.run(inherited(piece), helpers.Watcher()))
    await nodes.wait_until(lambda: second.sharing.adopted)
    (hand,) = second.sharing.adopted
    await second.stop(piece.key, force=deaf)
    outcome = await task
    assert outcome.how == ("forced" if deaf else "asked")
    await nodes.wait_until(lambda: not processes.is_alive(hand.identity.pid, hand.identity.created))


async def test_what_a_run_does_not_need_is_not_left_behind(agents):
    first, second = agents
    piece = helpers.work("sample.sleep", seconds=60.0)
    left, _ = await helpers.start(first, piece)
    await tasks.end(left)
    assert await second.sharing.find([inherited(piece)]) == frozenset()


async def test_a_worker_that_nobody_has_used_yet_does_not_end(ray_cluster, artifacts, tmp_path):
    told = (msgspec.structs.replace(ray_cluster, remote=True), config.Ray(workers=2))
    executor = pool.RayExecutor(
        *told, artifacts.uri, tmp_path, kit.Services(), modules=helpers.MODULES, lease_s=0.5
    )
    run = lambda seconds: executor.run(  # noqa: E731
        helpers.work("sample.sleep", seconds=seconds), helpers.Watcher()
    )
    assert isinstance(await run(3.0), base.Succeeded)  # six leases, for the other worker
    both = await asyncio.gather(run(0.5), run(0.5))
    assert all(isinstance(one, base.Succeeded) for one in both)
    await executor.close()


async def test_an_attempt_whose_worker_ray_does_not_start_fails_and_the_next_gets_another(agents):
    run = lambda: agents[0].run(helpers.work("sample.noop"), helpers.Watcher())  # noqa: E731
    assert isinstance(await run(), base.Succeeded)
    nodes_there = agents[0]._bench.nodes
    nodes_there.sizes = {"not a node's name": 2.0}
    lost = await run()
    assert (lost.problem.code, lost.problem.retryable) == ("worker_lost", True)
    nodes_there.sizes = {}
    assert isinstance(await run(), base.Succeeded)


async def test_on_a_cluster_of_our_own_workers_have_no_names_for_others_to_find(on_ray):
    assert isinstance(
        await on_ray.run(helpers.work("sample.noop"), helpers.Watcher()), base.Succeeded
    )
    from ray import util  # it reads the environment that `cluster.start` makes

    known = await asyncio.to_thread(util.list_named_actors, all_namespaces=True)
    assert not {each["name"] for each in known} & {hand.name for hand in on_ray._bench.all()}
    assert not any(hand.shared for hand in on_ray._bench.all())
