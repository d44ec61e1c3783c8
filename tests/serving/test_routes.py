"""The way of requests: who answers, who goes together, and who is told to come back."""

from __future__ import annotations

import asyncio
import collections
import itertools

import pytest

from agent.serving import routes


class Version:
    """A version that answers when it is let."""

    def __init__(self, key="v", replicas=1):
        self.batches = []
        self.go = asyncio.Event()
        self.fails = False
        self.route = routes.Route(key, self._answer, replicas)

    async def _answer(self, questions):
        self.batches.append([body for body, _ in questions])
        await self.go.wait()
        if self.fails:
            raise ConnectionError
        return [(0, body) for body, _ in questions]


async def test_what_finds_a_version_busy_goes_together():
    version = Version()
    asking = [asyncio.create_task(version.route.ask((b"%d" % n, None))) for n in range(10)]
    async with asyncio.timeout(5):
        while len(version.batches) < routes.AT_WORK_EACH:  # noqa: ASYNC110 - tasks of this loop
            await asyncio.sleep(0)
    version.go.set()
    answers = await asyncio.gather(*asking)
    assert answers == [(0, b"%d" % n) for n in range(10)]
    assert [len(batch) for batch in version.batches] == [1, 1, 8]


async def test_a_batch_has_an_end_in_requests_and_in_bytes():
    version = Version()
    large = bytes(routes.MOST_BYTES_TOGETHER)
    bodies = [b"", b"", large, large, *[b""] * (routes.MOST_TOGETHER + 1)]
    asking = [asyncio.create_task(version.route.ask((body, None))) for body in bodies]
    await asyncio.sleep(0)
    version.go.set()
    await asyncio.gather(*asking)
    sizes = [len(batch) for batch in version.batches]
    assert sizes == [1, 1, 1, 1, routes.MOST_TOGETHER, 1]


async def test_who_gets_no_answer_is_told_and_the_next_is_asked():
    version = Version()
    version.fails = True
    version.go.set()
    with pytest.raises(routes.NoAnswer):
        await version.route.ask((b"", None))
    version.fails = False
    assert await version.route.ask((b"x", None)) == (0, b"x")


async def test_more_than_can_wait_are_told_to_come_back():
    version = Version()
    count = routes.MOST_WAITING + routes.AT_WORK_EACH
    asking = [asyncio.create_task(version.route.ask((b"", None))) for _ in range(count)]
    await asyncio.sleep(0)
    with pytest.raises(routes.Overloaded):
        await version.route.ask((b"", None))
    version.go.set()
    await asyncio.gather(*asking)


async def test_who_went_away_holds_nobody_up():
    version = Version()
    gone = asyncio.create_task(version.route.ask((b"a", None)))
    await asyncio.sleep(0)
    gone.cancel()
    version.go.set()
    assert await version.route.ask((b"b", None)) == (0, b"b")
    async with asyncio.timeout(5):
        await version.route.wait_idle()


async def test_each_version_gets_its_share():
    old, new = Version("old").route, Version("new").route
    chance = itertools.cycle([n / 100 for n in range(100)])
    router = routes.Router(lambda: next(chance))
    router.shift("line", {old: 3.0, new: 1.0})
    picked = collections.Counter(router.pick("line").key for _ in range(100))
    assert picked == {"old": 75, "new": 25}
    router.shift("line", {new: 1.0})
    assert {router.pick("line").key for _ in range(100)} == {"new"}
    router.shift("line", {})
    with pytest.raises(routes.NotDeployed):
        router.pick("line")
