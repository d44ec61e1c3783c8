"""Owns the sweep for runs that have no place in the queue and need one, so that none is forgotten.

A crash between the two appends of an acceptance can leave such a run, and so does a gate that
expires, or a deadline that falls, while a run is parked.
"""

from __future__ import annotations

import asyncio
import contextlib

import nats.errors
import structlog

from agent.bus import tickets
from agent.conductor import host, index, scribe

log = structlog.get_logger()

REST_S = 1.0
"""Between two sweeps, at least: a run that is due stays so until somebody has taken it."""


class Janitor:
    """Puts runs back on the queue.

    The broker refuses a second ticket for a run that has one, and a run that has ended meanwhile
    is let go by whoever takes it, so the sweep may run on every agent at any time.
    """

    def __init__(
        self,
        listing: index.Index,
        queue: tickets.Tickets,
        runs: host.Host,
        clock: scribe.Clock,
        *,
        every_s: float,
    ) -> None:
        self._index = listing
        self._queue = queue
        self._host = runs
        self._clock = clock
        self._every_s = every_s
        self._settled = False
        """There was a sweep since all journals were read."""

    async def serve(self) -> None:
        """Sweep now and then, and when a parked run is due, until cancelled."""
        while True:
            await self._wait()
            try:
                await self.sweep()
            except (nats.errors.Error, TimeoutError) as error:
                log.warning("sweep.failed", error=type(error).__name__)
            await asyncio.sleep(REST_S)

    async def sweep(self) -> int:
        """Put back every run that needs a ticket and has none; say how many there were."""
        due = {
            run_id: priority
            for run_id, priority in self._index.stirring(self._clock()).items()
            if self._host.held(run_id) is None and run_id not in self._host.unreadable
        }
        if not due:
            return 0
        queued = await self._queue.queued()
        missing = due.keys() - queued
        for run_id in missing:
            token = f"janitor-{self._clock().timestamp():.0f}"
            await self._queue.put(run_id, due[run_id], token)
            log.info("ticket.put_back", run=run_id)
        return len(missing)

    async def _wait(self) -> None:
        """Wait for the next round; a run that begins to wait may bring it forward."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._every_s
        while True:
            wake = self._index.next_wake()
            left = until - loop.time()
            if wake is not None:
                left = min(left, (wake - self._clock()).total_seconds())
            complete = self._index.waiting.complete.is_set()
            if left <= 0 or (complete and not self._settled):
                self._settled = complete
                return
            self._index.parked.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._index.parked.wait()
