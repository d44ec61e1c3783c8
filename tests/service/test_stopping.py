"""An agent that is told to end does end, and ends what it has begun."""

from __future__ import annotations

import asyncio

import structlog

from agent import service


def test_what_does_not_heed_a_cancellation_does_not_keep_the_agent_up():
    heeded = []

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heeded.append("not yet")
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(deaf(), name="deaf")
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await service._end_rest()
        assert task.cancelled()

    with structlog.testing.capture_logs() as logged:
        asyncio.run(main())
    assert heeded == ["not yet"]
    assert [(each["event"], each["task"]) for each in logged] == [("task.left", "deaf")]
