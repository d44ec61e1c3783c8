"""Owns what only processes can do: be killed, be limited, be lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from agent import config
from agent.execution import base, pool, processes
from stages import kit
from tests.execution import helpers

pytestmark = pytest.mark.ray
MB = 2**20


async def outcome_of(executor, use, **how):
    return await executor.run(helpers.work(use, **how), helpers.Watcher())


def runs(pid):
    """Say whether a process runs; one that only waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_of(outcome):
    return int(outcome.where.split()[1])


async def test_a_forced_stop_ends_the_process_of_a_deaf_stage(on_ray, tmp_path):
    piece = helpers.work("sample.spawn", trace=str(tmp_path / "child"))
    task = asyncio.create_task(on_ray.run(piece, helpers.Watcher()))
    child = int(await helpers.wait_file(tmp_path / "child"))
    worker = psutil.Process(child).ppid()
    await on_ray.stop(piece.key, force=True)
    outcome = await asyncio.wait_for(task, 10)
    assert isinstance(outcome, base.Halted)
    assert (outcome.how, pid_of(outcome)) == ("forced", worker)
    assert not runs(worker)
    assert not runs(child)


async def test_an_asked_stop_does_not_end_a_deaf_stage_but_force_does(on_ray):
    piece = helpers.work("sample.sleep", seconds=60, deaf=True)
    task, _ = await helpers.start(on_ray, piece)  # it sleeps: it looks no more whether to stop
    await on_ray.stop(piece.key, force=False)
    done, _ = await asyncio.wait({task}, timeout=0.3)
    assert not done
    await on_ray.stop(piece.key, force=True)
    assert (await asyncio.wait_for(task, 10)).how == "forced"


async def test_a_worker_that_dies_is_told_fast_and_replaced(on_ray):
    await outcome_of(on_ray, "sample.noop")
    started = time.monotonic()
    outcome = await outcome_of(on_ray, "sample.die")
    assert time.monotonic() - started < 2
    assert isinstance(outcome, base.Failed)
    assert (outcome.problem.code, outcome.problem.retryable) == ("worker_lost", True)
    both = await asyncio.gather(*(outcome_of(on_ray, "sample.sleep", seconds=0.2) for _ in "ab"))
    assert all(isinstance(one, base.Succeeded) for one in both)


async def test_more_memory_than_asked_for_is_refused_by_the_worker(on_ray):
    small = {"memory_bytes": 64 * MB}
    outcome = await outcome_of(on_ray, "sample.allocate", bytes=400 * MB, resources=small)
    assert isinstance(outcome, base.Failed)
    assert (outcome.problem.code, outcome.problem.retryable) == ("out_of_memory", True)
    within = await outcome_of(on_ray, "sample.allocate", bytes=32 * MB, resources=small)
    assert isinstance(within, base.Succeeded)


async def test_memory_is_measured_per_attempt(on_ray):
    big = await outcome_of(on_ray, "sample.allocate", bytes=300 * MB)
    small = await outcome_of(on_ray, "sample.allocate", bytes=1)
    assert big.usage.peak_memory_bytes > small.usage.peak_memory_bytes + 200 * MB


async def test_a_stage_that_needs_two_cpus_runs_alone(on_ray):
    order = []

    async def one(name, seconds, cpu):
        piece = helpers.work("sample.sleep", seconds=seconds, resources={"cpu": cpu})
        outcome = await on_ray.run(piece, helpers.Watcher())
        order.append(name)
        assert isinstance(outcome, base.Succeeded)

    await asyncio.gather(one("first", 0.4, 1), one("wide", 0.1, 2), one("last", 0.0, 1))
    assert order == ["first", "wide", "last"]


async def test_who_is_behind_one_that_leaves_the_queue_moves_up(on_ray):
    busy = helpers.work("sample.sleep", seconds=60)
    running, _ = await helpers.start(on_ray, busy)
    wide = helpers.work("sample.noop", resources={"cpu": 2})
    blocked = asyncio.create_task(on_ray.run(wide, helpers.Watcher()))
    behind = asyncio.create_task(outcome_of(on_ray, "sample.noop"))
    await asyncio.sleep(0)
    await on_ray.stop(wide.key, force=False)
    assert (await blocked).how == "not_started"
    assert isinstance(await asyncio.wait_for(behind, 10), base.Succeeded)
    await on_ray.stop(busy.key, force=True)
    assert (await running).how == "forced"


@pytest.mark.parametrize("needs", [{"cpu": 3}, {"gpu": 99}, {"memory_bytes": 2**60}])
async def test_what_the_cluster_never_has_is_refused_at_once(on_ray, needs):
    outcome = await outcome_of(on_ray, "sample.noop", resources=needs)
    assert outcome.problem.code == "unavailable"


async def test_an_attempt_that_nobody_waits_for_ends(on_ray, tmp_path):
    piece = helpers.work("sample.spawn", trace=str(tmp_path / "child"))
    task = asyncio.create_task(on_ray.run(piece, helpers.Watcher()))
    worker = psutil.Process(int(await helpers.wait_file(tmp_path / "child"))).ppid()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while runs(worker):  # noqa: ASYNC110 - another process ends it
            await asyncio.sleep(0.01)
    assert isinstance(await outcome_of(on_ray, "sample.noop"), base.Succeeded)


async def test_closing_ends_every_worker_with_proof(ray_cluster, artifacts, tmp_path):
    executor = pool.RayExecutor(
        ray_cluster, config.Ray(), artifacts.uri, tmp_path, kit.Services(), modules=helpers.MODULES
    )
    task, _ = await helpers.start(executor, helpers.work("sample.sleep", seconds=60))
    await executor.close()
    outcome = await asyncio.wait_for(task, 10)
    assert outcome.how == "forced"
    assert not runs(pid_of(outcome))
    assert (await outcome_of(executor, "sample.noop")).how == "not_started"


async def test_a_worker_that_cannot_start_says_why(ray_cluster, artifacts, tmp_path):
    executor = pool.RayExecutor(
        ray_cluster,
        config.Ray(workers=1),
        artifacts.uri,
        tmp_path,
        kit.Services(),
        modules=("no_such_module_of_stages",),
    )
    outcome = await outcome_of(executor, "sample.noop")
    assert outcome.problem.code == "worker_lost"
    assert "no_such_module_of_stages" in outcome.problem.message
    await executor.close()


def test_a_process_is_known_by_its_creation_too():
    me = psutil.Process()
    assert processes.is_alive(me.pid, me.create_time())
    assert not processes.is_alive(me.pid, me.create_time() - 1)


async def test_a_killed_idle_worker_costs_one_attempt_at_most(on_ray):
    for pid in await worker_pids(on_ray):
        os.kill(pid, signal.SIGKILL)
    outcomes = [await outcome_of(on_ray, "sample.noop") for _ in range(4)]
    codes = [o.problem.code for o in outcomes if isinstance(o, base.Failed)]
    assert set(codes) <= {"worker_lost"}
    assert len(codes) <= 2
    assert isinstance(outcomes[-1], base.Succeeded)


async def worker_pids(executor):
    await asyncio.gather(*(hand.ready() for hand in executor._bench.all()))
    return [hand.identity.pid for hand in executor._bench.all()]


async def test_a_chain_of_no_ops_compared_with_plain_ray_tasks(on_ray, capsys):
    import ray

    @ray.remote(num_cpus=0)
    def nothing():
        return None

    async def timed(call, count=100):
        await call()
        started = time.perf_counter()
        for _ in range(count):
            await call()
        return (time.perf_counter() - started) / count * 1000

    async def task():
        await nothing.remote()

    ours = await timed(lambda: outcome_of(on_ray, "sample.noop"))
    plain = await timed(task)
    with capsys.disabled():
        line = f"{ours:.2f} ms an attempt (stored), {plain:.2f} ms a plain Ray task"
        print(f"\nno-op chain: {line}")  # noqa: T201 - a figure to read, not to assert
