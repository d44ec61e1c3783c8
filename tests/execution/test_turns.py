"""Quick attempts wait in a busy worker for their turn, and what happens there harms none."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.execution import base, lines, paces, processes, trays
from tests.execution import helpers

RUNS = "sample.sleep"


async def outcome(task):
    return await asyncio.wait_for(asyncio.shield(task), helpers.WAIT_S)


def sleep(seconds, **how):
    return helpers.work(RUNS, seconds=seconds, **how)


def launch(executor, piece):
    """Start an attempt; it takes its place at once, if there is one."""
    watcher = helpers.Watcher()
    return asyncio.create_task(executor.run(piece, watcher)), watcher


def crowd(executor):
    """Say how many attempts the busiest worker has."""
    return max(load.count for load in executor._bench._busy.values())


async def learn(executor):
    """Let the executor find that the stage is quick, on every worker."""
    for _ in range(3):
        await asyncio.gather(*(executor.run(sleep(0), helpers.Watcher()) for _ in "abcd"))


async def occupied(executor, seconds=3.0):
    """Occupy both workers with what was taken to be quick."""
    await learn(executor)
    busy = [launch(executor, sleep(seconds)) for _ in "ab"]
    for _, watcher in busy:
        await asyncio.wait_for(watcher.at_work.wait(), helpers.WAIT_S)
    return busy


@pytest.mark.ray
async def test_attempts_wait_in_busy_workers_and_each_ends_once(on_bus):
    await learn(on_bus)
    tasks = [launch(on_bus, sleep(0))[0] for _ in range(40)]
    await asyncio.sleep(0)
    busiest = crowd(on_bus)
    outcomes = [await outcome(task) for task in tasks]
    assert busiest > 1
    assert all(isinstance(one, base.Succeeded) for one in outcomes)


@pytest.mark.ray
async def test_an_attempt_behind_one_that_takes_long_finds_another_worker(on_bus):
    await learn(on_bus)
    (long, at_work), (short, _) = launch(on_bus, sleep(4.0)), launch(on_bus, sleep(0.4))
    await asyncio.wait_for(at_work.at_work.wait(), helpers.WAIT_S)
    behind = [launch(on_bus, sleep(0))[0] for _ in range(6)]
    for task in (*behind, short):
        assert isinstance(await outcome(task), base.Succeeded)
    assert not long.done()
    (key,) = on_bus._jobs
    await on_bus.stop(key, force=True)
    assert isinstance(await outcome(long), base.Halted)


@pytest.mark.ray
async def test_its_time_counts_from_its_turn(on_bus):
    busy = await occupied(on_bus, 0.4)
    task, watcher = launch(on_bus, sleep(0))
    await asyncio.sleep(0.02)
    assert not watcher.at_work.is_set()
    assert isinstance(await outcome(task), base.Succeeded)
    assert watcher.at_work.is_set()
    await asyncio.gather(*(outcome(one) for one, _ in busy))


@pytest.mark.ray
async def test_a_worker_that_dies_takes_nobody_along_who_waits_in_it(on_bus):
    busy = await occupied(on_bus)
    waiting = [launch(on_bus, sleep(0))[0] for _ in range(6)]
    await asyncio.sleep(0.01)
    assert crowd(on_bus) > 1
    for hand in [*on_bus._bench._busy]:
        processes.end(hand.identity)
    for task, _ in busy:
        lost = await outcome(task)
        assert isinstance(lost, base.Failed)
        assert lost.problem.code == "worker_lost"
    for task in waiting:
        assert isinstance(await outcome(task), base.Succeeded)


@pytest.mark.ray
@pytest.mark.parametrize("force", [False, True])
async def test_an_attempt_that_waits_is_stopped_without_harm_to_the_one_before(on_bus, force):
    busy = await occupied(on_bus, 2.0)
    piece = sleep(0)
    task, _ = launch(on_bus, piece)
    await asyncio.sleep(0.01)
    assert crowd(on_bus) > 1
    await on_bus.stop(piece.key, force=force)
    halted = await outcome(task)
    assert isinstance(halted, base.Halted)
    assert halted.how == "not_started"
    assert not any(before.done() for before, _ in busy)
    for before, _ in busy:
        assert isinstance(await outcome(before), base.Succeeded)


@pytest.mark.ray
async def test_an_attempt_that_waits_is_dropped_without_harm_to_the_one_before(on_bus):
    busy = await occupied(on_bus, 1.0)
    tasks = [launch(on_bus, sleep(0))[0] for _ in range(6)]
    await asyncio.sleep(0.01)
    assert crowd(on_bus) > 1
    for task in tasks:
        task.cancel()
    for before, _ in busy:
        assert isinstance(await outcome(before), base.Succeeded)
    assert isinstance(await on_bus.run(sleep(0), helpers.Watcher()), base.Succeeded)
    assert not on_bus._bench._busy


@pytest.mark.ray
async def test_who_waits_is_not_blamed_for_the_end_of_one_that_was_dropped(on_bus):
    busy = await occupied(on_bus)
    waiting = [launch(on_bus, sleep(0))[0] for _ in range(6)]
    await asyncio.sleep(0.01)
    assert crowd(on_bus) > 1
    for before, _ in busy:
        before.cancel()
    for task in waiting:
        assert isinstance(await outcome(task), base.Succeeded)


@pytest.mark.ray
async def test_nothing_is_kept_of_attempts_that_are_over(on_bus, line):
    busy = await occupied(on_bus, 0.3)
    tasks = [launch(on_bus, sleep(0))[0] for _ in range(6)]
    await asyncio.gather(*(outcome(task) for task in (*tasks, *(one for one, _ in busy))))
    await asyncio.sleep(0)
    assert not any(line._waiting.values())


@pytest.mark.ray
async def test_nobody_waits_behind_stages_that_are_not_known_to_be_quick(on_bus):
    slow = [launch(on_bus, sleep(0.3)) for _ in "abc"]
    await asyncio.wait_for(slow[0][1].at_work.wait(), helpers.WAIT_S)
    assert crowd(on_bus) == 1
    for task, _ in slow:
        await outcome(task)


def succeeded(seconds):
    return base.Succeeded({}, duration_s=seconds)


@pytest.mark.usefixtures("artifacts")
def test_a_stage_is_quick_once_it_was_and_until_it_is_not():
    known = paces.Paces()
    assert not known.is_quick("sample.noop")
    known.note("sample.noop", succeeded(0.001))
    assert known.is_quick("sample.noop")
    known.note("sample.noop", succeeded(1.0))
    known.note("sample.noop", succeeded(0.001))
    assert not known.is_quick("sample.noop")


def test_a_stage_that_changes_something_outside_never_waits_in_a_worker():
    known = paces.Paces()
    known.note("register.model", succeeded(0.001))
    assert not known.is_quick("register.model")


def test_a_tray_carries_each_order_out_once_in_whatever_order_they_come():
    tray = trays.Tray()
    for number in (2, 1, 2, 1):
        tray.put(lines.Order(number, b""), "")
    assert [tray.wait_order()[0].number for _ in "ab"] == [2, 1]
    assert tray._orders.empty()


def test_a_withdrawn_order_is_not_carried_out_even_if_it_comes_later():
    tray = trays.Tray()
    tray.put(lines.Order(1, b""), "")
    tray.put(lines.Order(2, b""), "")
    assert tray.withdraw(2)
    assert tray.withdraw(3)
    tray.put(lines.Order(3, b""), "")
    tray.put(lines.Order(4, b""), "")
    assert [tray.wait_order()[0].number for _ in "ab"] == [1, 4]
    assert tray.wait_reply(2) == b""


def test_an_order_can_be_withdrawn_again():
    tray = trays.Tray()
    tray.put(lines.Order(1, b""), "")
    assert tray.withdraw(1)
    assert tray.withdraw(1)


def test_an_order_that_has_begun_or_ended_is_not_withdrawn():
    tray = trays.Tray()
    tray.put(lines.Order(1, b""), "")
    tray.wait_order()
    assert not tray.withdraw(1)
    tray.finish(1, b"done")
    assert not tray.withdraw(1)
    assert tray.wait_reply(1) == b"done"


def test_a_tray_forgets_what_nobody_waits_for():
    tray = trays.Tray()
    for number in range(1, 100):
        tray.put(lines.Order(number, b"", floor=number), "")
        tray.wait_order()
        tray.finish(number, b"done")
    assert list(tray._replies) == [99]
    tray.put(lines.Order(5, b""), "")
    assert tray._orders.empty()


def test_who_asks_early_hears_the_reply():
    tray = trays.Tray()
    tray.put(lines.Order(1, b""), "")
    heard = []
    asking = threading.Thread(target=lambda: heard.append(tray.wait_reply(1)))
    asking.start()
    tray.finish(1, b"done")
    asking.join(helpers.WAIT_S)
    assert heard == [b"done"]
