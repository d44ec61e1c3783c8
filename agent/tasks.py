"""Owns the end of asyncio tasks."""

from __future__ import annotations

import asyncio
from typing import Any

ASK_AGAIN_S = 0.5


async def end(*tasks: asyncio.Future[Any], again_s: float = ASK_AGAIN_S) -> None:
    """Cancel tasks and wait until they have ended, however they do.

    Cancelled again and again: `asyncio.wait_for`, which libraries use, may swallow a cancellation
    in Python 3.11 (https://github.com/python/cpython/issues/86296). Give what has much to clean up
    more time before it is asked again.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it counts as seen
