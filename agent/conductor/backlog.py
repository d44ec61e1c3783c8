"""Owns who is next among runs that wait: of each requester only so many stand in the queue at once.

The queue is first come, first served within a priority. Whoever has more runs waiting than its
window takes a new place for each run of its own that begins, behind those that others have taken
meanwhile: so all get equal shares, whatever any of them asks for. The runs behind the windows wait
in their journals alone.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import sys
from collections.abc import Iterator

import msgspec
import nats.errors
import structlog

from agent.bus import tickets

log = structlog.get_logger()

WINDOW = 16
"""How many runs of one requester and priority stand in the queue."""


class Share(msgspec.Struct, frozen=True):
    """Whose runs wait in one line."""

    requester: str
    priority: int


class Joined(msgspec.Struct):
    """How it went with a run that is being accepted."""

    stands: bool
    """It is one of those that stand in the queue."""
    kept: bool = False
    """It was stored now, and so it waits."""


def share(requester: str, signed_by: str | None, priority: int) -> Share:
    """Tell in whose line a run waits: a name that was proven, or else one that was claimed."""
    whose = f"{signed_by} (signed)" if signed_by else requester
    return Share(sys.intern(whose), priority)


class Backlog:
    """Knows the runs that nobody has begun, in the order in which they came."""

    def __init__(self, agent_id: str = "", window: int = WINDOW) -> None:
        self._agent_id = agent_id
        self._window = window
        self._lines: dict[Share, collections.OrderedDict[str, None]] = {}
        self._shares: dict[str, Share] = {}
        self._moved: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.complete = asyncio.Event()
        """Every journal has been read: until then it is not known who waits."""

    @property
    def behind(self) -> int:
        """Count the runs that wait for a place in the queue."""
        return sum(max(0, len(line) - self._window) for line in self._lines.values())

    def knows(self, run_id: str) -> bool:
        """Tell whether a run waits."""
        return run_id in self._shares

    def stands(self, run_id: str) -> bool:
        """Tell whether a run has a right to a place in the queue; what is begun always has."""
        share = self._shares.get(run_id)
        return share is None or run_id in self._front(self._lines[share])

    def join(self, run_id: str, share: Share) -> bool:
        """Let a run wait, at the end of its line; tell whether it stands in the queue at once."""
        if run_id not in self._shares:
            self._shares[run_id] = share
            self._lines.setdefault(share, collections.OrderedDict())[run_id] = None
        return self.stands(run_id)

    @contextlib.contextmanager
    def joining(self, run_id: str, share: Share) -> Iterator[Joined]:
        """Let a run wait while it is being stored, and on if it was; what waited already stays."""
        known = self.knows(run_id)
        joined = Joined(self.join(run_id, share))
        try:
            yield joined
        finally:
            if not known and not joined.kept:
                self.leave(run_id, self._agent_id)

    def leave(self, run_id: str, by: str = "") -> None:
        """Take out a run that has begun or ended; if that was by this agent, the next one moves up.

        Whoever brought it about sees to the next one, and the sweep to what is forgotten.
        """
        share = self._shares.pop(run_id, None)
        if share is None:
            return
        line = self._lines[share]
        stood = run_id in self._front(line)
        del line[run_id]
        if not line:
            del self._lines[share]
        if stood and len(line) >= self._window and self.complete.is_set() and by == self._agent_id:
            next_one = next(itertools.islice(line, self._window - 1, None))
            self._moved.put_nowait((next_one, share.priority))

    async def serve(self, queue: tickets.Tickets) -> None:
        """Put runs into the queue as their turn comes, until cancelled."""
        while True:
            run_id, priority = await self._moved.get()
            try:
                if self.knows(run_id):
                    await queue.put(run_id, priority, "turn")
            except (nats.errors.Error, TimeoutError) as error:  # the sweep will find it
                log.warning("turn.missed", run=run_id, error=type(error).__name__)

    def _front(self, line: collections.OrderedDict[str, None]) -> itertools.islice[str]:
        return itertools.islice(line, self._window)
