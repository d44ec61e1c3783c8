"""Owns what becomes of the attempts that a run's former owner had at work and that outlived it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Protocol

import msgspec

from agent.conductor import ledger
from agent.run import effects, launch
from protocol import problems


class Survivors(Protocol):
    """The place where attempts may outlive the agent that had them begun."""

    async def find(self, works: Sequence[effects.Work]) -> frozenset[effects.WorkKey]:
        """Give those that somebody is at, or has done; nothing is changed by it."""

    async def end(self, works: Sequence[effects.Work]) -> None:
        """End those that somebody is at, and return once they are proved gone."""


async def look(
    book: ledger.Ledger,
    problem: problems.Problem | None,
    survivors: Survivors,
    now: dt.datetime,
) -> frozenset[effects.WorkKey]:
    """Give the attempts that can go on under this agent.

    Nothing goes on in a run that is being stopped: what is found is ended, whoever may own it.
    """
    run = book.machine.state
    had = [launch.launch(run, unit).work for unit in run.running]
    works = [
        msgspec.structs.replace(work, epoch=book.epoch + 1, adopt=True)
        for work in had
        if work.placement == "ray"
    ]
    if not works:
        return frozenset()
    if problem or run.stopping(now):
        await survivors.end(works)
        return frozenset()
    return await survivors.find(works)
