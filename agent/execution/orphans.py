"""Owns finding workers on a shared cluster that outlived their agent, and claiming what they do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

import msgspec

from agent.execution import custody, hands, worker
from agent.run import effects

ASKED_FOR_S = 2.0
"""A worker that says nothing for so long is not counted on."""


def namespace(store_uri: str) -> str:
    """Name where Ray knows the workers of all agents that share a store, and so can share runs."""
    return f"mlpm-{hashlib.blake2b(store_uri.encode(), digest_size=8).hexdigest()}"


async def find(
    place: str, works: Sequence[effects.Work], own: Collection[str]
) -> frozenset[effects.WorkKey]:
    """Give those attempts that some worker is at, or has done; nothing is changed by it.

    Workers that are our `own`, by name, are not asked: they may be starting yet.
    """
    wanted = {work.key: work for work in works}
    found: set[effects.WorkKey] = set()
    calls = {
        one: _aside(one, "at").remote() for one in await asyncio.to_thread(_others, place, own)
    }
    async for _, data in _answers(calls):
        at = msgspec.msgpack.decode(data, type=effects.Work | None)
        if at is not None and at.key in wanted and custody.same(at, wanted[at.key]):
            found.add(at.key)
        if len(found) == len(wanted):
            break
    return frozenset(found)


async def claim(
    place: str, work: effects.Work, holder: str, own: Collection[str]
) -> hands.Hand | None:
    """Take the worker over that is at an attempt, or has done it; None if there is none."""
    asked = msgspec.msgpack.encode(work)
    others = await asyncio.to_thread(_others, place, own)
    calls = {one: _aside(one, "claim").remote(asked, holder) for one in others}
    async for actor, data in _answers(calls):
        if data:
            had = msgspec.msgpack.decode(data, type=worker.Claimed)
            return hands.Hand(
                hands.there(actor), identity=had.identity, count=had.number - 1, shared=True
            )
    return None


async def _answers(calls: Mapping[Any, Any]) -> AsyncIterator[tuple[Any, bytes]]:
    """Give each answer that comes in time, as soon as it comes."""
    waiting = {asyncio.wrap_future(call.future()): actor for actor, call in calls.items()}
    for one in waiting:
        one.add_done_callback(lambda late: late.cancelled() or late.exception())
    left, loop = {*waiting}, asyncio.get_running_loop()
    until = loop.time() + ASKED_FOR_S
    while left and (patience := until - loop.time()) > 0:
        done, left = await asyncio.wait(left, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            if not one.cancelled() and one.exception() is None:
                yield waiting[one], one.result()


def _others(place: str, own: Collection[str]) -> list[Any]:
    """Give the workers that Ray knows; blocks while it is asked."""
    import ray
    from ray import util

    found = []
    for each in util.list_named_actors(all_namespaces=True):
        if each["namespace"] == place and each["name"] not in own:
            with contextlib.suppress(ValueError):  # it has just ended
                found.append(ray.get_actor(each["name"], place))
    return found


def _aside(actor: Any, method: str) -> Any:
    return getattr(actor, method).options(concurrency_group=worker.LISTENING)
