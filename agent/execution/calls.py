"""Owns one attempt on a worker: whether its turn has come, its reply, or why it gets none there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

AHEAD = 8
"""How many attempts may wait in a worker for their turn; with none it idles between two."""
PROMPT_S = 0.05
"""After this long an attempt counts as one that nobody should wait behind."""


class Withdrawn(Exception):
    """An attempt that waited in a worker for its turn is not carried out there."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the attempt did not get its turn on {where}")
        self.where = where


class Adopted(Exception):
    """The worker, and the attempt that it was at, are another agent's now."""

    def __init__(self, where: str) -> None:
        super().__init__(f"another agent goes on with the attempt on {where}")
        self.where = where


class Call:
    """One attempt on a worker, and its reply."""

    def __init__(self, number: int, payload: bytes, began: Callable[[], None]) -> None:
        self.number = number
        """It tells the attempt from the worker's others."""
        self.payload = payload
        self.begun = False
        """Those before it are done."""
        self._began = began
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """Raises Ray's error where the worker dies under it, Withdrawn if it is not to begin."""

    def begin(self) -> None:
        """Take note that it is its turn."""
        self.begun = True
        self._began()

    def settle(self, outcome: bytes | BaseException) -> None:
        """Take the reply, or what prevents it; only the first counts."""
        if self.reply.done():
            return
        if isinstance(outcome, bytes):
            self.reply.set_result(outcome)
        else:
            self.reply.set_exception(outcome)
            self.reply.exception()  # nobody may wait for it any more
