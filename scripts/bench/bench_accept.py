"""Measures request → RunAccepted against a publish-ack plus a core round trip."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pathlib
import sys

import nats

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import measure
import stack

from protocol import client

ROUNDS = 300
PIPELINE = {
    "name": "bench",
    "stages": [{"id": "a", "use": "bench.items", "with": {"count": 1}, "approval": {}}],
}
"""It waits for an approval that never comes: only its acceptance costs."""


async def main() -> None:
    """Measure."""
    measure.heading()
    async with stack.running() as running:
        await _measure(running.url)


async def _measure(url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        agent = await stack.enter_async_context(client.connect(url))
        bus = await nats.connect(url)
        stack.push_async_callback(bus.close)
        stream = bus.jetstream()
        await stream.add_stream(name="floor", subjects=["floor.append"])

        async def echo(message: nats.aio.msg.Msg) -> None:
            await message.respond(message.data)

        other = await nats.connect(url)
        stack.push_async_callback(other.close)
        await other.subscribe("floor.echo", cb=echo)
        await other.flush()
        payload, numbers = b"x" * 600, itertools.count()

        async def floor() -> None:
            await bus.request("floor.echo", payload)
            await stream.publish("floor.append", payload)

        async def cost() -> None:
            await agent.submit(pipeline=PIPELINE, request_id=f"bench-{next(numbers)}")

        costs, floors = await measure.against_floor(cost, floor, ROUNDS)
        measure.tell("request → RunAccepted", costs, floors, limit=3)


if __name__ == "__main__":
    asyncio.run(main())
