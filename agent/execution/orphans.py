"""Owns finding workers on a shared cluster that outlived their agent, and claiming what they do."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from agent.execution import custody, hands, worker
from agent.run import effects

ASKED_FOR_S = 2.0
"""A worker that says nothing for so long is not counted on."""


def namespace(store_uri: str) -> str:
    """Name where Ray knows the workers of all agents that share a store, and so can share runs."""
    return f"mlpm-{hashlib.blake2b(store_uri.encode(), digest_size=8).hexdigest()}"


async def find(place: str, works: Sequence[effects.Work]) -> frozenset[effects.WorkKey]:
    """Give those attempts that some worker is at, or has done; nothing is changed by it."""
    workers = await asyncio.to_thread(_workers, place)
    at = [msgspec.msgpack.decode(data, type=effects.Work | None) for data in await _asked(workers)]
    known = {work.key: work for work in at if work is not None}
    return frozenset(
        work.key for work in works if work.key in known and custody.same(known[work.key], work)
    )


async def claim(place: str, work: effects.Work, holder: str) -> hands.Hand | None:
    """Take the worker over that is at an attempt, or has done it; None if there is none."""
    workers = await asyncio.to_thread(_workers, place)
    asked = msgspec.msgpack.encode(work)
    calls = {actor: _aside(actor, "claim").remote(asked, holder) for actor in workers}
    for actor, data in zip(calls, await _answers([*calls.values()]), strict=True):
        if data:
            had = msgspec.msgpack.decode(data, type=worker.Claimed)
            return hands.Hand(actor, identity=had.identity, count=had.number - 1, shared=True)
    return None


async def _asked(workers: Sequence[Any]) -> list[bytes]:
    answers = await _answers([_aside(actor, "at").remote() for actor in workers])
    return [data for data in answers if data]


async def _answers(calls: Sequence[Any]) -> list[bytes]:
    """Give each answer that comes in time; nothing for those that do not."""
    waiting = [asyncio.wrap_future(call.future()) for call in calls]
    if waiting:
        await asyncio.wait(waiting, timeout=ASKED_FOR_S)
    found = []
    for one in waiting:
        given = one.done() and not one.cancelled() and one.exception() is None
        found.append(one.result() if given else b"")
        one.add_done_callback(lambda late: late.cancelled() or late.exception())
    return found


def _workers(place: str) -> list[Any]:
    import ray
    from ray import util

    found = []
    for each in util.list_named_actors(all_namespaces=True):
        if each["namespace"] == place:
            try:
                found.append(ray.get_actor(each["name"], place))
            except ValueError:
                continue  # it has just ended
    return found


def _aside(actor: Any, method: str) -> Any:
    return getattr(actor, method).options(concurrency_group=worker.LISTENING)
