"""Owns who works next: a ledger of CPUs, the idle workers, and those who wait, first come first."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable

import msgspec

from agent.execution import calls, hands, nodes
from protocol import pipelines

IDLE_S = 60.0
"""How long a worker of a special shape is kept for the next attempt of that shape."""


Hire = Callable[[hands.Shape, str], hands.Hand]
"""Starts a worker of a shape, on the named node if one is named."""


class Place(msgspec.Struct, frozen=True):
    """What an attempt holds while it runs."""

    hand: hands.Hand
    behind: bool = False
    """Others were on the worker before."""


class Waiting(msgspec.Struct, frozen=True):
    """An attempt that has not got its place."""

    cpu: float
    shape: hands.Shape
    quick: bool
    """It may wait behind others that are quick, and they behind it."""
    place: asyncio.Future[Place | None]
    """None once it is not to start any more."""
    since: float


class Load(msgspec.Struct):
    """What a busy worker has to do."""

    cpu: float
    """Taken from the ledger; the attempts on a worker use it one after the other."""
    quick: bool
    count: int = 0


class Bench:
    """Gives places. Whoever asked first is served first, so that a large one is not starved."""

    def __init__(self, cpus: float, workers: int, hire: Hire) -> None:
        self._cpus = self._free = cpus
        self._employed = workers
        """Common workers, at work or idle."""
        self._wanted = workers
        self._hire = hire
        self.nodes = nodes.Nodes()
        self._idle: dict[hands.Shape, list[hands.Hand]] = {
            hands.COMMON: [hire(hands.COMMON, "") for _ in range(workers)]
        }
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._timers: dict[hands.Hand, asyncio.TimerHandle] = {}
        self._busy: dict[hands.Hand, Load] = {}

    def ask(
        self, needs: pipelines.Resources, *, quick: bool = False, again: bool = False
    ) -> Waiting:
        """Queue for a place; `again` at the head, for one that had a place in vain."""
        loop = asyncio.get_running_loop()
        shape, now = shape_of(needs), time.monotonic()
        asked = Waiting(needs.cpu, shape, quick, loop.create_future(), now)
        if again:
            self._waiting.appendleft(asked)
        else:
            self._waiting.append(asked)
        self._serve()
        return asked

    def give_back(self, place: Place) -> None:
        """Return a place; a dead worker is replaced at once."""
        hand = place.hand
        load = self._busy[hand]
        load.count -= 1
        if not load.count:
            self._free += load.cpu
            del self._busy[hand]
            self._put_back(hand)
        self._serve()

    def resize(self, cpus: float, workers: int) -> None:
        """Follow the cluster. What is at work goes on, whatever it has now.

        Idle workers that are too many are dismissed, busy ones when they are done; whoever waits
        for more than there is now is turned away.
        """
        self._free += cpus - self._cpus
        self._cpus, self._wanted = cpus, workers
        self._even_out()
        for one in [*self._waiting]:
            if one.cpu > cpus:
                self.turn_away(one)
        self._serve()

    def _even_out(self) -> None:
        """Have as many common workers as are wanted, as far as they are idle."""
        idle = self._idle[hands.COMMON]
        idle.sort(key=lambda hand: not hand.lost)  # who has died goes first
        while idle and self._employed > self._wanted:
            idle.pop(0).kill()
            self._employed -= 1
        if self.nodes.home:
            return
        # The new ones are not up yet: those that are have their turn first.
        idle[:0] = [self._hire(hands.COMMON, "") for _ in range(self._employed, self._wanted)]
        self._employed = max(self._employed, self._wanted)

    def _put_back(self, hand: hands.Hand) -> None:
        if hand.shape != hands.COMMON:
            self._keep_a_while(hand)
        elif self._employed > self._wanted or (self.nodes.home and hand.dead):
            self._employed -= 1
            hand.kill()
        else:
            self._rest(self._hire(hand.shape, "") if hand.dead else hand)

    def _rest(self, hand: hands.Hand) -> None:
        """Line up an idle worker; the last one works next, so those at home before the others."""
        idle = self._idle[hands.COMMON]
        hand.idle_since = time.monotonic()
        idle.insert(
            sum(map(self.nodes.is_away, idle)) if self.nodes.is_away(hand) else len(idle), hand
        )

    def demand(
        self, patience_s: float
    ) -> tuple[list[tuple[float, hands.Shape]], list[tuple[float, hands.Shape]]]:
        """Give what is at work, and what waits if one of them has for so long."""
        # What else a worker reserves, Ray knows.
        at_work = [(load.cpu, hands.COMMON) for load in self._busy.values()]
        waiting = [one for one in self._waiting if not one.place.done()]
        long = any(time.monotonic() - one.since >= patience_s for one in waiting)
        return at_work, [(one.cpu, one.shape) for one in waiting] if long else []

    def release(self, idle_s: float) -> int:
        """Dismiss the workers of nodes away from home where all have idled for so long."""
        idle = self._idle[hands.COMMON]
        before = time.monotonic() - idle_s
        kept = {hand.node for hand in self.all() if hand not in idle or hand.idle_since > before}
        going = [hand for hand in idle if hand.node not in {"", self.nodes.home, *kept}]
        for hand in going:
            idle.remove(hand)
            self._employed -= 1
            hand.kill()
        return len(going)

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
                place = self._own_place(first) or self._place_behind(first)
                if place is None:
                    return
                self._busy[place.hand].count += 1
                first.place.set_result(place)
            self._waiting.popleft()

    def _own_place(self, asked: Waiting) -> Place | None:
        hand = self._hand_for(asked) if asked.cpu <= self._free else None
        if hand is None:
            return None
        self._free -= asked.cpu
        self._busy[hand] = Load(asked.cpu, asked.quick)
        return Place(hand)

    def _place_behind(self, asked: Waiting) -> Place | None:
        """Find the worker with the fewest quick attempts, so that it does not idle after them."""
        if not asked.quick or asked.shape != hands.COMMON:
            return None
        fitting = [
            (load.count, hand)
            for hand, load in self._busy.items()
            if load.quick and load.count <= calls.AHEAD and load.cpu >= asked.cpu and hand.prompt
        ]
        return Place(min(fitting, key=lambda one: one[0])[1], behind=True) if fitting else None

    def _hand_for(self, asked: Waiting) -> hands.Hand | None:
        idle = self._idle.get(asked.shape, [])
        hand = next((one for one in reversed(idle) if self.nodes.fits(one, asked.cpu)), None)
        if hand is not None:
            idle.remove(hand)
            if timer := self._timers.pop(hand, None):
                timer.cancel()
            return self._hire(asked.shape, "") if self._is_lost(hand) else hand
        if asked.shape == hands.COMMON:
            return self._one_more(asked.cpu)
        # What another shape holds while it idles may be just what this one needs.
        for hand in [*self._timers]:
            self._dismiss(hand)
        return self._hire(asked.shape, "")

    def _one_more(self, cpus: float) -> hands.Hand | None:
        """Hire a worker where there is most room, in place of an idle one on too small a node."""
        idle = self._idle[hands.COMMON]
        if self._employed >= self._wanted:
            if not idle:
                return None
            idle.pop(0).kill()
            self._employed -= 1
        self._employed += 1
        return self._hire(hands.COMMON, self.nodes.roomiest(cpus, self.all()))

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
