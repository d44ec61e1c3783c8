"""One worker's end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

from agent.execution import hands


def kills():
    return [each for each in threading.enumerate() if each.name == "kill"]


async def test_whoever_leaves_the_cluster_waits_until_ray_has_been_told():
    hired = concurrent.futures.Future()  # Ray has not started it yet
    hand = hands.Hand(hired)
    hand.kill()
    waiting = asyncio.create_task(hand.wait_told())
    await asyncio.sleep(0.05)
    assert kills()
    assert not waiting.done()
    hired.set_exception(RuntimeError("it never will"))
    await waiting
    assert not kills()


async def test_it_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(hands, "TOLD_WITHIN_S", 0.05)
    hired = concurrent.futures.Future()
    hand = hands.Hand(hired)
    hand.kill()
    await hand.wait_told()
    assert kills()
    hired.cancel()
