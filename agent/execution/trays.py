"""Owns what lies in a worker: the orders that have come, and the replies that are kept."""

from __future__ import annotations

import queue
import threading

from agent.execution import lines


class Tray:
    """The orders that have come, each once, and their replies; shared by the worker's threads.

    Orders may overtake each other, since one that the bus has lost comes again through Ray. Each
    tells which replies nobody waits for any more.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._orders: queue.SimpleQueue[tuple[lines.Order, str]] = queue.SimpleQueue()
        self._queued: set[int] = set()
        self._replies: dict[int, bytes | None] = {}
        """By the number of the attempt; None until it has ended."""
        self._floor = 0
        """Attempts with lower numbers are over and forgotten."""
        self._begun = 0
        """The attempt that was begun last."""
        self._sealed = False
        """Nothing more is begun."""

    def put(self, order: lines.Order, place: str) -> None:
        """Take an order, and where its reply goes; one that came before is ignored."""
        with self._changed:
            self._forget_below(order.floor)
            if not self._sealed and not self._is_known(order.number):
                self._replies[order.number] = None
                self._queued.add(order.number)
                self._orders.put((order, place))

    def withdraw(self, number: int) -> bool:
        """Have an order not be carried out, even if it is still to come; False if it has begun."""
        with self._changed:
            if self._replies.get(number) == b"":
                return True  # it was withdrawn before
            if number not in self._queued and self._is_known(number):
                return False
            self._queued.discard(number)
            self._replies[number] = b""
            self._changed.notify_all()
            return True

    def seal(self, number: int) -> bool:
        """Begin nothing after this attempt; False if something has begun, or it is forgotten."""
        with self._changed:
            if self._begun != number or number not in self._replies:
                return False
            self._sealed = True
            self._replies |= dict.fromkeys(self._queued, b"")
            self._queued.clear()
            self._changed.notify_all()
            return True

    def wait_order(self) -> tuple[lines.Order, str]:
        """Wait for the next order."""
        while True:
            order, place = self._orders.get()
            with self._changed:
                if order.number in self._queued:
                    self._queued.remove(order.number)
                    self._begun = order.number
                    return order, place

    def finish(self, number: int, reply: bytes) -> None:
        """Keep a reply until nobody waits for it."""
        with self._changed:
            self._replies[number] = reply
            self._changed.notify_all()

    def wait_reply(self, number: int) -> bytes:
        """Wait for the reply to an order; nothing where it is no longer kept."""
        with self._changed:
            self._changed.wait_for(lambda: self._replies.get(number, b"") is not None)
            return self._replies.get(number) or b""

    def _is_known(self, number: int) -> bool:
        return number < self._floor or number in self._replies

    def _forget_below(self, floor: int) -> None:
        if floor > self._floor:
            self._floor = floor
            self._replies = {n: reply for n, reply in self._replies.items() if n >= floor}
