"""Owns time for a simulation: event loops that share a clock, which moves on when all are quiet.

Each loop is a machine of its own: it can be frozen and woken while the others go on.
"""

from __future__ import annotations

import asyncio
import selectors
from asyncio import events

MOST_TURNS = 10_000
"""Of one loop while no time passes: more of them means that it spins."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0


class _Blind(selectors.SelectSelector):
    """Watches no files, and so never waits."""

    def select(self, timeout=None):  # noqa: ARG002 - what loops call it with
        return []


class Loop(asyncio.SelectorEventLoop):
    """A loop that runs only when it is turned."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(_Blind())
        self._shared = clock
        self.frozen = False

    def time(self) -> float:
        return self._shared.now

    def turn(self) -> None:
        """Run what is ready."""
        events._set_running_loop(self)
        try:
            self._run_once()
        finally:
            events._set_running_loop(None)

    def next_at(self) -> float:
        """Give when there is something to run; infinity if there never is."""
        if self._ready:
            return self._shared.now
        waiting = [handle.when() for handle in self._scheduled if not handle.cancelled()]
        return min(waiting, default=float("inf"))

    def bury(self) -> None:
        """End every task, whatever it waits for."""
        self.frozen = True
        for _ in range(MOST_TURNS):
            left = asyncio.all_tasks(self)
            if not left:
                break
            for task in left:
                task.cancel()
            self.turn()
        self.close()


class Clockwork:
    """Turns loops in order of time; `until` tells when to stop looking."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loops: list[Loop] = []

    def loop(self) -> Loop:
        """Add a loop."""
        self.loops.append(Loop(self.clock))
        return self.loops[-1]

    def remove(self, loop: Loop) -> None:
        """End a loop and all that runs on it."""
        self.loops.remove(loop)
        loop.bury()

    def run(self, until: float) -> None:
        """Let everything happen that happens by then."""
        turns = 0
        while True:
            awake = [loop for loop in self.loops if not loop.frozen]
            at = min((loop.next_at() for loop in awake), default=float("inf"))
            if at > until:
                break
            turns = 0 if at > self.clock.now else turns + 1
            assert turns < MOST_TURNS, "time stands still"
            self.clock.now = max(self.clock.now, at)
            for loop in awake:
                if loop.next_at() <= self.clock.now and loop in self.loops:
                    loop.turn()
        self.clock.now = until
