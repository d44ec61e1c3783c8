"""Work that another agent does has all that every executor has to do, and what a swarm adds."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from nats.js import api

from agent.execution import base
from protocol import codec, swarm
from tests.execution import helpers as executing
from tests.execution.test_contract import *  # noqa: F403 - the same claims hold here
from tests.swarm import helpers

pytestmark = []


@pytest.fixture
async def executor(nc, names, artifacts):
    async with helpers.half(nc, names, artifacts) as taker:
        yield taker.executor


async def test_a_stage_nobody_knows_is_refused(nc, names, artifacts):
    warned = []
    async with helpers.half(nc, names, artifacts, warned=warned, take_within_s=0.3) as taker:
        outcome = await taker.executor.run(executing.work("sample.nobody"), executing.Watcher())
    assert (outcome.problem.code, outcome.problem.retryable) == ("unavailable", True)
    assert [severity for severity, _ in warned] == ["warning"]
    assert await helpers.queued(nc, names) == 0


async def test_what_is_queued_is_stopped_before_it_starts(executor, nc, names, trace):
    busy = [
        msgspec.structs.replace(executing.work("sample.sleep", seconds=60), idempotency_key=key)
        for key in "ab"
    ]
    running = [(await executing.start(executor, one))[0] for one in busy]
    waiting = executing.work("sample.echo", trace=str(trace))
    queued = asyncio.create_task(executor.run(waiting, executing.Watcher()))
    await asyncio.sleep(0)
    await executor.stop(waiting.key, force=False)
    stopped = await asyncio.wait_for(queued, 5)
    assert (type(stopped), stopped.how) == (base.Halted, "not_started")
    for one in busy:
        await executor.stop(one.key, force=False)
    assert {(await task).how for task in running} == {"asked"}
    await helpers.wait_empty(nc, names)
    assert not trace.exists()


async def test_who_answers_a_cancellation_and_gives_no_report_is_not_believed(
    nc, names, artifacts, trace
):
    piece = executing.work("sample.echo", trace=str(trace))
    put = await nc.subscribe(names.work(piece.use))
    async with helpers.half(nc, names, artifacts, start=False) as one:
        running = asyncio.create_task(one.executor.run(piece, executing.Watcher()))
        asked = codec.decode((await put.next_msg(timeout=5)).data, swarm.StageAssignment)
        name = asked.assignment_id
        cancels = await nc.subscribe(names.assignment_cancel(name))
        await nc.flush()
        await one.executor.stop(piece.key, force=False)
        asking = await cancels.next_msg(timeout=5)
        await cancels.unsubscribe()  # it lets go, as one does that loses the bus
        await asking.respond(codec.encode(swarm.AssignmentStatus(name, "lost", stopped=True)))
        stopped = await asyncio.wait_for(running, 10)
        assert isinstance(stopped, base.Halted)
        await one.start()
        await helpers.wait_empty(nc, names)
    assert not trace.exists()


async def test_an_assignment_that_the_bus_does_not_take_is_put_again(nc, names, artifacts):
    piece, js = executing.work("sample.noop"), nc.jetstream()
    full = (await js.stream_info(names.work_stream)).config
    full.max_msgs, full.discard = 1, api.DiscardPolicy.NEW
    await js.update_stream(full)
    other = await helpers.put(nc, names, helpers.assignment("sample.nobody"))
    put = await nc.subscribe(names.work(piece.use))
    async with helpers.half(nc, names, artifacts) as one:
        running = asyncio.create_task(one.executor.run(piece, executing.Watcher()))
        for _ in range(2):
            await put.next_msg(timeout=5)
        await js.delete_msg(names.work_stream, other.seq)
        assert isinstance(await asyncio.wait_for(running, helpers.WAIT_S), base.Succeeded)


async def test_a_bus_that_takes_no_assignment_for_long_fails_the_attempt(nc, names, artifacts):
    await nc.jetstream().delete_stream(names.work_stream)
    async with helpers.half(nc, names, artifacts, start=False, take_within_s=0.1) as one:
        outcome = await one.executor.run(executing.work("sample.noop"), executing.Watcher())
    assert (outcome.problem.code, outcome.problem.retryable) == ("unavailable", True)
