"""Owns the end of asyncio tasks."""

from __future__ import annotations

import asyncio
from typing import Any

_ASK_AGAIN_S = 0.5


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended, however they do.

    Cancelled again and again: `asyncio.wait_for`, which libraries use, may swallow a cancellation
    in Python 3.11 (https://github.com/python/cpython/issues/86296).
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=_ASK_AGAIN_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # it counts as seen
