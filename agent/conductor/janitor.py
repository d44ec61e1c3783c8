"""Owns the sweep for runs that lost their place in the queue, so that none waits for ever."""

from __future__ import annotations

import asyncio

import structlog

from agent.bus import tickets
from agent.conductor import host, index

log = structlog.get_logger()


class Janitor:
    """Puts an accepted, unfinished run back on the queue when it has no ticket.

    A crash between the two appends of an acceptance can leave such a run; the broker refuses a
    second ticket for a run that has one, so the sweep may run on every agent at any time.
    """

    def __init__(
        self, listing: index.Index, queue: tickets.Tickets, runs: host.Host, *, every_s: float
    ) -> None:
        self._index = listing
        self._queue = queue
        self._host = runs
        self._every_s = every_s

    async def serve(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.sweep()

    async def sweep(self) -> int:
        """Put back every unfinished run without a ticket; say how many there were."""
        count = 0
        for summary in self._index.unfinished():
            if self._host.held(summary.run_id) is None:
                count += await self._put_back(summary.run_id)
        return count

    async def _put_back(self, run_id: str) -> bool:
        if await self._queue.holds(run_id):
            return False
        log.warning("ticket.missing", run=run_id)
        await self._queue.put(run_id, 5, f"janitor-{run_id}")
        return True
