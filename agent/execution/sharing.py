"""Owns an agent's part in what may outlive it: signs of life to workers, and claims on others'."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence

from agent import tasks
from agent.execution import custody, hands, orphans
from agent.run import effects

KEPT_LEASES = 6
"""For so many leases a worker keeps a result that its agent did not get."""
ANSWER_S = 1.0
"""A worker that says nothing for so long is taken to be ours yet."""


class Sharing:
    """Ties an agent to workers on a shared cluster; without a place nothing outlives it."""

    def __init__(self, place: str, lease_s: float) -> None:
        self.place = place
        """Where Ray knows the workers of all agents that share runs."""
        self.holder = uuid.uuid4().hex
        terms = custody.Terms(self.holder, lease_s, KEPT_LEASES * lease_s)
        self.terms = terms if place else None
        self.adopted: set[hands.Hand] = set()
        """Workers that another agent had hired; they hold no place here."""
        self._hired: Callable[[], list[hands.Hand]] = list
        self._signing: list[asyncio.Task[None]] = []

    def sign_to(self, hired: Callable[[], list[hands.Hand]]) -> None:
        """Give signs of life from now on to those whom we have hired, and to the adopted."""
        self._hired = hired
        if self.terms:
            signing = self._sign(self.terms.sign_s)
            self._signing = [asyncio.create_task(signing, name="signs of life")]

    async def _sign(self, every_s: float) -> None:
        while True:
            for hand in (*self._hired(), *self.adopted):
                hand.sign(self.holder)
            await asyncio.sleep(every_s)

    async def find(self, works: Sequence[effects.Work]) -> frozenset[effects.WorkKey]:
        """Give those attempts that a worker on a shared cluster is at, or has done."""
        if not self.place:
            return frozenset()
        return await orphans.find(self.place, works, self._names())

    async def claim(self, work: effects.Work) -> hands.Hand | None:
        """Take the worker over that is at an attempt, or has done it; None if there is none."""
        return await orphans.claim(self.place, work, self.holder, self._names())

    async def end(self, works: Sequence[effects.Work]) -> None:
        """End the workers that are at these attempts, and prove it."""
        found = await self.find(works)
        wanted = [self.claim(work) for work in works if work.key in found]
        ended = [hand for hand in await asyncio.gather(*wanted) if hand is not None]
        for hand in ended:
            hand.kill()
        await asyncio.gather(*(hand.wait_gone() for hand in ended))

    async def is_ours(self, hand: hands.Hand) -> bool:
        """Tell whether no other agent has taken a worker over, while we were frozen maybe."""
        if hand.shared and hand.identity is not None:
            with contextlib.suppress(Exception):  # it is gone or says nothing: be rid of it
                async with asyncio.timeout(ANSWER_S):
                    return await hand.is_of(self.holder)
        return True

    async def close(self) -> list[hands.Hand]:
        """Give no signs any more; give those that are ours yet."""
        await tasks.end(*self._signing)
        everyone = [*self._hired(), *self.adopted]
        ours = await asyncio.gather(*map(self.is_ours, everyone))
        return [hand for hand, mine in zip(everyone, ours, strict=True) if mine]

    def _names(self) -> set[str]:
        return {hand.name for hand in self._hired()}
