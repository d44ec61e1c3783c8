"""Owns the executor inside the agent: attempts of light stages on threads.

A thread cannot be killed: a forced stop waits until the stage looks at its context or ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping
from typing import Any

from agent.artifacts import store
from agent.execution import attempt, base, capture
from agent.run import effects
from stages import kit

THREADS = 4


class _Job:
    """One attempt from its queueing to its end."""

    def __init__(self) -> None:
        self.to_stop = threading.Event()
        self.thread: concurrent.futures.Future[base.Outcome] | None = None

    def stop(self) -> None:
        """Ask it to stop; one that has not begun never will."""
        self.to_stop.set()
        if self.thread is not None:
            self.thread.cancel()


class InAgentExecutor:
    """Runs attempts on threads of this process; for stages that are quick and need no cluster."""

    def __init__(self, kept: store.Store, services: kit.Services, threads: int = THREADS) -> None:
        self._store = kept
        self._services = services
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, "stage")
        self._jobs: dict[effects.WorkKey, _Job] = {}

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Run one attempt on a thread."""
        job = self._jobs[work.key] = _Job()
        told = _Across(asyncio.get_running_loop(), watcher)
        job.thread = self._threads.submit(self._do, work, job, told)
        try:
            return await asyncio.wrap_future(job.thread)
        except asyncio.CancelledError:
            if job.to_stop.is_set() and job.thread.cancelled():
                return base.Halted("not_started")
            raise
        finally:
            job.to_stop.set()
            self._jobs.pop(work.key, None)

    def _do(self, work: effects.Work, job: _Job, told: _Across) -> base.Outcome:
        told.began()
        return attempt.Attempt(
            work,
            self._store,
            self._services,
            capture.OfThread,
            report=told.progress,
            note=told.note,
            stopped=job.to_stop.is_set,
        ).run()

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:  # noqa: ARG002 - a thread cannot be killed
        """Ask an attempt to stop; with `force` the same, for a thread cannot be killed."""
        job = self._jobs.get(key)
        if job is not None:
            job.stop()

    async def close(self) -> None:
        """Ask every attempt to stop, and wait until the threads have ended."""
        for job in self._jobs.values():
            job.stop()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=False)


class _Across:
    """Brings what a thread tells to the event loop, in order and before the outcome."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watcher: base.Watcher) -> None:
        self._loop = loop
        self._watcher = watcher

    def began(self) -> None:
        """Pass the beginning on."""
        self._call(self._watcher.began)

    def progress(self, fraction: float | None, message: str, metrics: Mapping[str, float]) -> None:
        """Pass a progress on."""
        self._call(self._watcher.progress, fraction, message, dict(metrics))

    def note(self, fact: str, details: Mapping[str, Any]) -> None:
        """Pass a note on."""
        self._call(self._watcher.note, fact, details)

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(function, *args)
