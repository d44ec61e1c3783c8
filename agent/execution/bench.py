"""Owns who works next: a ledger of CPUs, the idle workers, and those who wait, first come first."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable

import msgspec

from agent.execution import hands
from protocol import pipelines

IDLE_S = 60.0
"""How long a worker of a special shape is kept for the next attempt of that shape."""


class Place(msgspec.Struct, frozen=True):
    """What an attempt holds while it runs."""

    hand: hands.Hand
    cpu: float


class Waiting(msgspec.Struct, frozen=True):
    """An attempt that has not got its place."""

    cpu: float
    shape: hands.Shape
    place: asyncio.Future[Place | None]
    """None once it is not to start any more."""


class Bench:
    """Gives places. Whoever asked first is served first, so that a large one is not starved."""

    def __init__(
        self, cpus: float, workers: int, hire: Callable[[hands.Shape], hands.Hand]
    ) -> None:
        self._free = cpus
        self._hire = hire
        self._idle: dict[hands.Shape, list[hands.Hand]] = {
            hands.COMMON: [hire(hands.COMMON) for _ in range(workers)]
        }
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._timers: dict[hands.Hand, asyncio.TimerHandle] = {}
        self._busy: set[hands.Hand] = set()

    def ask(self, needs: pipelines.Resources) -> Waiting:
        """Queue for a place."""
        loop = asyncio.get_running_loop()
        asked = Waiting(needs.cpu, shape_of(needs), loop.create_future())
        self._waiting.append(asked)
        self._serve()
        return asked

    def give_back(self, place: Place) -> None:
        """Return a place; a dead worker is replaced at once."""
        hand = place.hand
        self._free += place.cpu
        self._busy.discard(hand)
        if hand.shape != hands.COMMON:
            self._keep_a_while(hand)
        else:
            self._idle[hands.COMMON].append(self._hire(hand.shape) if hand.dead else hand)
        self._serve()

    def all(self) -> list[hands.Hand]:
        """Give every worker there is."""
        return [*self._busy, *(hand for idle in self._idle.values() for hand in idle)]

    def turn_away(self, asked: Waiting) -> None:
        """Let one who waits go without a place; those behind may fit now."""
        if not asked.place.done():
            asked.place.set_result(None)
            self._serve()

    def close(self) -> None:
        """Let nobody start any more."""
        for timer in self._timers.values():
            timer.cancel()
        waiting, self._waiting = self._waiting, collections.deque()
        for one in waiting:
            self.turn_away(one)

    def _serve(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if not first.place.done():
                hand = self._hand_for(first) if first.cpu <= self._free else None
                if hand is None:
                    return
                self._free -= first.cpu
                self._busy.add(hand)
                first.place.set_result(Place(hand, first.cpu))
            self._waiting.popleft()

    def _hand_for(self, asked: Waiting) -> hands.Hand | None:
        idle = self._idle.get(asked.shape)
        if idle:
            hand = idle.pop()
            if timer := self._timers.pop(hand, None):
                timer.cancel()
            return self._hire(asked.shape) if self._is_lost(hand) else hand
        if asked.shape == hands.COMMON:
            return None
        # What another shape holds while it idles may be just what this one needs.
        for hand in [*self._timers]:
            self._dismiss(hand)
        return self._hire(asked.shape)

    def _is_lost(self, hand: hands.Hand) -> bool:
        """Tell whether an idle worker has died, and be rid of it."""
        if hand.lost:
            hand.kill()
        return hand.lost

    def _keep_a_while(self, hand: hands.Hand) -> None:
        if hand.dead:
            return
        self._idle.setdefault(hand.shape, []).append(hand)
        loop = asyncio.get_running_loop()
        self._timers[hand] = loop.call_later(IDLE_S, self._dismiss, hand)

    def _dismiss(self, hand: hands.Hand) -> None:
        self._timers.pop(hand).cancel()
        self._idle[hand.shape].remove(hand)
        hand.kill()


def shape_of(needs: pipelines.Resources) -> hands.Shape:
    """Say what sort of worker an attempt needs."""
    return hands.Shape(needs.gpu, needs.memory_bytes or 0)
