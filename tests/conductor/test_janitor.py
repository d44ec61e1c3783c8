"""Runs without a place in the queue: found, put back once, and only when they are due."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from agent import service
from agent.bus import tickets
from agent.conductor import index, janitor
from tests.bus.conftest import names, nc
from tests.conductor import test_index as facts

__all__ = ["names", "nc"]


class Runs:
    """Holds what it is told to hold, and counts how often somebody looks."""

    def __init__(self) -> None:
        self.mine: set[str] = set()
        self.unreadable: set[str] = set()
        self.looks = 0

    def held(self, run_id):
        self.looks += 1
        return self if run_id in self.mine else None


@pytest.fixture
async def queue(nc, names):
    opened = tickets.Tickets(nc, names, lease_s=1.0)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def listing():
    return index.Index()


@pytest.fixture
def runs():
    return Runs()


@pytest.fixture
def sweeper(listing, queue, runs):
    return janitor.Janitor(listing, queue, runs, service.now, every_s=60)


@contextlib.asynccontextmanager
async def serving(sweeper):
    task = asyncio.create_task(sweeper.serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def soon(seconds):
    """Give a number of seconds for `facts.at`, counted from now."""
    return (service.now() - facts.START).total_seconds() + seconds


async def wait_queued(queue, run_id):
    async with asyncio.timeout(10):
        while run_id not in await queue.queued():  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0.01)


async def test_a_run_that_nobody_can_read_is_left_alone(sweeper, listing, queue, runs):
    await facts.folded(facts.accepted(), listing=listing)
    runs.unreadable.add("r")
    assert await sweeper.sweep() == 0
    assert not await queue.queued()


async def test_a_run_without_a_ticket_is_put_back_once(sweeper, listing, queue):
    await facts.folded(facts.accepted(priority=8), listing=listing)
    assert await sweeper.sweep() == 1
    assert await queue.queued() == {"r"}
    assert await sweeper.sweep() == 0
    ticket = await asyncio.wait_for(queue.take(), 5)
    assert ticket.run_id == "r"
    assert await sweeper.sweep() == 0  # taken is not lost
    await ticket.done()


async def test_what_is_held_or_over_or_waits_is_left_alone(sweeper, listing, queue, runs):
    await facts.folded(facts.accepted(), listing=listing)
    runs.mine = {"r"}
    assert await sweeper.sweep() == 0
    runs.mine = set()
    await facts.folded(facts.RUNNING, facts.asked("a"), listing=listing)
    assert await sweeper.sweep() == 0
    await facts.folded(facts.ENDED, listing=listing)
    assert await sweeper.sweep() == 0
    assert await queue.queued() == set()


async def test_a_parked_run_is_put_back_when_its_gate_expires(sweeper, listing, queue):
    async with serving(sweeper):
        gate = facts.asked("a", soon(0.4))
        await facts.folded(facts.accepted(), facts.RUNNING, gate, listing=listing)
        assert await queue.queued() == set()
        await wait_queued(queue, "r")
    assert service.now() >= gate.expires_at


async def test_a_gate_that_expires_sooner_brings_the_sweep_forward(sweeper, listing, queue):
    later = facts.asked("a", soon(60))
    await facts.folded(facts.accepted(), facts.RUNNING, later, listing=listing)
    async with serving(sweeper):
        await asyncio.sleep(0)
        sooner = facts.asked("a", soon(0.2))
        told = (facts.accepted(run_id="s"), facts.RUNNING, sooner)
        await facts.folded(*told, listing=listing, run_id="s")
        await wait_queued(queue, "s")
        assert await queue.queued() == {"s"}


async def test_an_overdue_run_that_is_being_taken_does_not_keep_the_agent_busy(
    sweeper, listing, runs
):
    overdue = facts.asked("a", soon(-5))
    await facts.folded(facts.accepted(), facts.RUNNING, overdue, listing=listing)
    runs.mine = {"r"}
    async with serving(sweeper):
        await asyncio.sleep(0.3)
    assert runs.looks <= 1
