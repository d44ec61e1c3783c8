"""Owns how an attempt on a worker is followed: heard, withdrawn, asked to stop, let go, lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import structlog

from agent import tasks
from agent.execution import base, calls, hands, jobs

log = structlog.get_logger(__name__)

QUIET_S = 0.5
"""Attempts shorter than this are not listened to: their notes come with the reply."""
PATIENCE_S = 5.0
LULL_S = 0.1
"""Between two questions for news, however much a stage tells."""


async def follow(hand: hands.Hand, job: jobs.Job, call: calls.Call, *, waits: bool) -> bytes:
    """Wait for the reply; listen where it takes long, withdraw it where its turn does."""
    aside: list[asyncio.Task[Any]] = []

    def begin(work: Coroutine[Any, Any, Any], name: str) -> None:
        aside.append(asyncio.create_task(work, name=name))

    loop = asyncio.get_running_loop()
    timers = [loop.call_later(QUIET_S, lambda: begin(_listen(hand, job, call), "listen"))]
    if waits:
        late = lambda: begin(withdraw(hand, call), "withdraw")  # noqa: E731
        timers.append(loop.call_later(calls.PROMPT_S, late))
    try:
        return await call.reply
    finally:
        for timer in timers:
            timer.cancel()
        await tasks.end(*aside)


async def withdraw(hand: hands.Hand, call: calls.Call) -> bool:
    """Take an attempt back; False if its turn has come, or the worker is gone."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):  # the reply says what became of it
        return await hand.withdraw(call)
    return False


async def ask_to_stop(hand: hands.Hand, call: calls.Call, holder: str) -> None:
    """Tell an attempt to stop; one whose worker is gone has ended."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        await hand.ask_to_stop(call.number, holder)


def let_go(hand: hands.Hand, job: jobs.Job) -> None:
    """Drop an attempt that nobody here waits for any more, but the run's next owner may."""
    call = job.call
    lasting = hand.shared and job.heritable and call is not None and hand.is_only_at(call)
    if lasting and not job.forced:
        hand.leave()
    else:
        hand.kill()


async def died(hand: hands.Hand, job: jobs.Job, why: base.Failed) -> base.Outcome:
    """Say how an attempt ended whose worker is gone: killed by us, or lost."""
    hand.kill()
    await hand.wait_gone()
    if job.forced:
        how = "forced" if job.call else "not_started"
        return base.Halted(how, hand.where)
    log.warning("worker.lost", worker=hand.where, code=why.problem.code)
    return why


async def _listen(hand: hands.Hand, job: jobs.Job, call: calls.Call) -> None:
    import ray

    seen, insisted = 0, False
    try:
        while True:
            news = await hand.news(call.number, seen, PATIENCE_S)
            if not news and not insisted:
                hand.insist(call)
                insisted = True
            seen = job.tell(news)
            await asyncio.sleep(LULL_S)
    except ray.exceptions.RayError:
        return  # the reply says what became of the worker
    except Exception:
        hand.insist(call)  # nobody listens any more, so let the reply come by itself
        raise
