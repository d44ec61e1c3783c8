"""Owns a deployment that is under way: who waits for it, what they are told, how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

from agent.bus import endpoints
from agent.serving import rollout
from protocol import serving

NEWS_S = 3.0
"""How long who asks is kept waiting: less than it waits for an answer."""


class Job:
    """A deployment that is under way; `epoch` is the highest of those who have asked for it."""

    def __init__(self, command: serving.DeployModel) -> None:
        self.command = command
        self.epoch = command.epoch
        self.task: asyncio.Task[None]
        self.askers: set[str] = set()
        self.shifts: list[serving.Shift] = []
        self.stopped: endpoints.Refusal | None = None
        """Why it was stopped, where it was not its own run that has asked."""
        self._news = asyncio.Event()

    def attach(self, command: serving.DeployModel) -> None:
        """Take note of who asks."""
        self.askers.add(command.asker)
        self.epoch = max(self.epoch, command.epoch)
        self.wake()

    def tell(self, shift: serving.Shift) -> None:
        """Let those who wait know of a shift."""
        self.shifts.append(shift)
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again."""
        self._news.set()
        self._news = asyncio.Event()

    def unknown(self, since: dt.datetime | None) -> list[serving.Shift]:
        """Give the shifts since one."""
        return [one for one in self.shifts if since is None or one.at > since]

    async def wait_news(self, since: dt.datetime | None) -> None:
        """Wait until there is something to tell, or for as long as who asks may be kept waiting."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEWS_S):
                while not (self.task.done() or self.unknown(since)):
                    await self._news.wait()

    async def wait_epoch(self, epoch: int, patience_s: float) -> None:
        """Wait until the owner of an epoch has asked, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self.epoch < epoch:
                    await self._news.wait()

    @property
    def failed(self) -> bool:
        """Tell whether it ended without a version that serves."""
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)

    def why(self, error: BaseException) -> str:
        """Say why requests have moved back."""
        if isinstance(error, rollout.RolledBack):
            return error.reason
        if isinstance(error, asyncio.CancelledError):
            return str(self.stopped or "it was stopped")
        return str(error) or type(error).__name__
