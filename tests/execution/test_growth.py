"""The executor follows the cluster: nodes that join give places, nodes that leave take them."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import pytest

from agent import config
from agent.execution import autoscaler, base, pool, processes, scaling
from agent.swarm import gauge, stance
from protocol import pipelines
from stages import kit
from tests.execution import helpers, nodes

pytestmark = pytest.mark.ray


def sleep(seconds, cpu=1.0, **params):
    return helpers.work("sample.sleep", seconds=seconds, resources={"cpu": cpu}, **params)


def launch(executor, piece):
    watcher = helpers.Watcher()
    return asyncio.create_task(executor.run(piece, watcher)), watcher


async def outcome(task):
    return await asyncio.wait_for(asyncio.shield(task), helpers.WAIT_S)


async def begun(*launched):
    """Wait until these attempts are at work."""
    for _, watcher in launched:
        await asyncio.wait_for(watcher.at_work.wait(), helpers.WAIT_S)


async def use(executor, count):
    """Have so many workers up and idle."""
    tasks = [launch(executor, sleep(0.2))[0] for _ in range(count)]
    for task in tasks:
        assert isinstance(await outcome(task), base.Succeeded)


@pytest.fixture
def measure(ray_cluster, on_ray):
    """Count the cluster's CPUs as the agent does, and have the executor follow."""
    measuring = gauge.Gauge(ray_cluster, min_free_bytes=1)
    measuring.follow(on_ray.resize)
    told = stance.Stance(None)

    async def measured():
        await measuring.measure(told)
        return told.capacity

    return measured


@pytest.mark.slow
async def test_a_node_that_joins_gives_places_and_one_that_leaves_takes_them(
    ray_cluster, on_ray, measure, tmp_path
):
    wake = tmp_path / "wake"
    first = [launch(on_ray, sleep(helpers.WAIT_S, wake=str(wake))) for _ in "ab"]
    await begun(*first)
    more = [launch(on_ray, sleep(1.0)) for _ in "cd"]
    assert await measure() == 2
    async with nodes.joined(ray_cluster.address, 2):
        assert not any(watcher.at_work.is_set() for _, watcher in more)
        assert await measure() == 4
        await begun(*more)
        assert not any(task.done() for task, _ in first)
        wake.touch()
        for task, _ in (*more, *first):
            assert isinstance(await outcome(task), base.Succeeded)
        assert len(on_ray._bench.all()) == 4  # where they are is for Ray to say
    assert await measure() == 2
    assert len(on_ray._bench.all()) == 2
    await use(on_ray, 4)


async def test_a_cluster_that_shrinks_dismisses_the_idle_and_harms_nobody_at_work(on_ray):
    on_ray.resize(4)
    await use(on_ray, 4)
    everyone = on_ray._bench.all()
    busy = [launch(on_ray, sleep(1.5)) for _ in "abc"]
    await begun(*busy)
    on_ray.resize(1)
    assert [hand.dead for hand in everyone].count(True) == 1
    late, _ = launch(on_ray, sleep(0.0))
    for task, _ in busy:
        assert isinstance(await outcome(task), base.Succeeded)
    assert isinstance(await outcome(late), base.Succeeded)
    assert len(on_ray._bench.all()) == 1
    await asyncio.gather(*(hand.wait_gone() for hand in everyone if hand.dead))


async def test_no_more_is_at_work_than_a_shrunken_cluster_has(on_ray):
    on_ray.resize(4)
    busy = [launch(on_ray, sleep(seconds)) for seconds in (0.3, 0.3, 1.2, 1.2)]
    await begun(*busy)
    on_ray.resize(2)
    late, watcher = launch(on_ray, sleep(0.0))
    await asyncio.gather(*(outcome(task) for task, _ in busy[:2]))
    assert not watcher.at_work.is_set()
    await asyncio.gather(*(outcome(task) for task, _ in busy[2:]))
    assert isinstance(await outcome(late), base.Succeeded)


async def test_whoever_waits_for_more_than_is_left_is_told_and_may_try_again(on_ray):
    on_ray.resize(4)
    busy, waiting = launch(on_ray, sleep(1.0)), launch(on_ray, sleep(0.0, cpu=4.0))
    behind = launch(on_ray, sleep(0.0))
    await begun(busy)
    on_ray.resize(2)
    told = await outcome(waiting[0])
    assert (told.problem.code, told.problem.retryable) == ("unavailable", True)
    assert "no more than 2" in told.problem.message
    assert isinstance(await outcome(behind[0]), base.Succeeded)
    again = await outcome(launch(on_ray, sleep(0.0, cpu=3.0))[0])
    assert (again.problem.code, again.problem.retryable) == ("unavailable", True)
    never = await outcome(launch(on_ray, sleep(0.0, cpu=5.0))[0])
    assert (never.problem.code, never.problem.retryable) == ("unavailable", False)
    await outcome(busy[0])


async def test_a_configured_number_of_workers_stays(ray_cluster, artifacts, tmp_path):
    executor = pool.RayExecutor(
        ray_cluster,
        config.Ray(workers=1),
        artifacts.uri,
        tmp_path,
        kit.Services(),
        modules=helpers.MODULES,
    )
    executor.resize(4)
    assert len(executor._bench.all()) == 1
    await use(executor, 2)
    await executor.close()


async def test_a_worker_that_died_goes_before_one_that_lives(on_ray):
    await use(on_ray, 2)
    dead, alive = on_ray._bench.all()
    await dead.ready()
    processes.end(dead.identity)
    await nodes.wait_until(lambda: dead.lost)
    on_ray.resize(1)
    assert on_ray._bench.all() == [alive]
    await use(on_ray, 2)


async def test_what_is_closed_grows_no_more(on_ray):
    await on_ray.close()
    before = on_ray._bench.all()
    on_ray.resize(8)
    assert on_ray._bench.all() == before


async def test_idle_workers_elsewhere_go_and_others_come_when_there_is_work(on_ray):
    await use(on_ray, 2)
    gone = on_ray._bench.all()
    on_ray._bench.nodes.home, on_ray._bench.nodes.sizes = "another node", {gone[0].node: 2.0}
    busy = launch(on_ray, sleep(0.3))
    await begun(busy)
    assert on_ray._bench.release(0.0) == 0  # somebody is at work on their node
    assert isinstance(await outcome(busy[0]), base.Succeeded)
    assert on_ray._bench.release(60.0) == 0
    assert on_ray._bench.release(0.0) == 2
    on_ray.resize(3)
    on_ray.resize(3)
    assert on_ray._bench.all() == []
    await use(on_ray, 3)
    assert len(on_ray._bench.all()) == 3
    await asyncio.gather(*(hand.wait_gone() for hand in gone))


async def test_idle_workers_at_home_stay(on_ray):
    await use(on_ray, 2)
    on_ray._bench.nodes.home = on_ray._bench.all()[0].node
    assert on_ray._bench.release(0.0) == 0


async def test_an_attempt_gets_a_worker_on_a_node_that_is_large_enough(on_ray):
    on_ray.resize(4)
    await use(on_ray, 4)
    here = on_ray._bench.all()[0].node
    on_ray._bench.nodes.home, on_ray._bench.nodes.sizes = here, {here: 2.0, "larger": 3.0}
    before = on_ray._bench.all()
    hand = on_ray._bench._hand_for(on_ray._bench.ask(pipelines.Resources(cpu=2)))
    assert hand in before
    hand = on_ray._bench._hand_for(on_ray._bench.ask(pipelines.Resources(cpu=3)))
    assert hand.node == "larger"
    assert len(on_ray._bench.all()) < 4  # it came in place of one on too small a node


async def test_a_cluster_without_an_autoscaler_refuses_at_once_and_is_asked_nothing(
    ray_cluster, artifacts, tmp_path
):
    assert not autoscaler.is_there(ray_cluster.address)
    executor = pool.RayExecutor(
        msgspec.structs.replace(ray_cluster, remote=True),
        config.Ray(),
        artifacts.uri,
        tmp_path,
        kit.Services(),
        modules=helpers.MODULES,
    )
    never = await executor.run(sleep(0.0, cpu=3.0), helpers.Watcher())
    assert (never.problem.code, never.problem.retryable) == ("unavailable", False)
    assert not executor._bench.nodes.home
    assert not executor._scaling._groups
    await executor.close()


async def test_no_more_is_asked_for_than_is_allowed(ray_cluster, on_ray):
    asking = scaling.Scaling(on_ray._bench, ray_cluster, config.Ray(max_cpus=4))
    wide, narrow = autoscaler.Bundle(3.0), autoscaler.Bundle(1.0)
    assert asking._bounded([wide, wide, narrow, narrow]) == [wide, narrow]


ASKING = """
import sys, time
import ray
from agent.execution import autoscaler
ray.init(address=sys.argv[1], log_to_driver=False)
print(autoscaler.ask([autoscaler.Bundle(64.0)])[0].id.hex(), flush=True)
time.sleep(60)  # it is killed in here, or ends by itself where the test has failed
"""


async def test_what_an_agent_asked_for_ends_with_it(ray_cluster):
    import ray

    def state():
        return ray.util.placement_group_table()[asked]["state"]

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASKING, ray_cluster.address, stdout=asyncio.subprocess.PIPE
    )
    asked = (await asyncio.wait_for(process.stdout.readline(), helpers.WAIT_S)).decode().strip()
    assert state() == "PENDING"
    process.kill()
    await process.wait()
    await nodes.wait_until(lambda: state() == "REMOVED")
