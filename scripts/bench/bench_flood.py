"""Measures what an agent's memory does while very many requests are left in the queue at once."""

from __future__ import annotations

import asyncio
import pathlib
import sys
import time

import nats
import psutil

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import measure
import stack

from protocol import client, subjects

WARM, REQUESTS, AT_ONCE, REQUESTERS = 200, 10_000, 64, 10
LIMIT_MIB = 20
PIPELINE = {"name": "flood", "stages": [{"id": "a", "use": "bench.noop"}]}
HELD = {"name": "held", "stages": [{"id": "a", "use": "bench.wait"}]}
NAMES = subjects.Subjects()


async def main() -> None:
    """Measure."""
    measure.heading()
    async with stack.running() as running, client.connect(running.url) as agent:
        bus = await nats.connect(running.url)
        await _fill(agent)
        await _leave(agent, 0, WARM)
        await _wait_accepted(bus)
        process = psutil.Process(running.pid)
        before, started = process.memory_info().rss, time.perf_counter()
        await _leave(agent, WARM, REQUESTS)
        left = time.perf_counter() - started
        await _wait_accepted(bus)
        taken = time.perf_counter() - started
        grown = (process.memory_info().rss - before) / 2**20
        tickets = (await bus.jetstream().stream_info(NAMES.tickets_stream)).state.messages
        await bus.close()
    print(f"{REQUESTS} requests of {REQUESTERS} requesters left in {left:.1f} s", end=", ")
    print(f"accepted in {taken:.1f} s ({taken / REQUESTS * 1e3:.2f} ms each)")
    print(f"tickets in the queue, those of runs at work included: {tickets}")
    each = grown * 2**20 / REQUESTS
    print(f"the agent's memory grew by {grown:.1f} MiB, {each:.0f} bytes a run", end="  ")
    print(f"(at most {LIMIT_MIB} MiB wanted; it was {before / 2**20:.0f} MiB)")


async def _fill(agent: client.Client) -> None:
    """Keep all places busy, so that nothing of the flood begins."""
    runs = [await agent.submit(pipeline=HELD) for _ in range(16)]
    for run in runs:
        while (await agent.status(run.run_id)).state == "queued":  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)


async def _leave(agent: client.Client, first: int, count: int) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            await agent.enqueue(
                client.make_request(pipeline=PIPELINE, requester=f"r{number % REQUESTERS}")
            )

    await asyncio.gather(*(one(number) for number in range(first, first + count)))


async def _wait_accepted(bus: nats.aio.client.Client) -> None:
    stream = bus.jetstream()
    while (await stream.stream_info(NAMES.intake_stream)).state.messages:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)  # the agent's own list of runs follows within a second


if __name__ == "__main__":
    asyncio.run(main())
