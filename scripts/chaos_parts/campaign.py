"""Owns a campaign: load and faults at the same time, then quiet, then the verdict."""

from __future__ import annotations

import asyncio
import collections
import pathlib
import time

import msgspec

from scripts.chaos_parts import faults, judge, load, report, world

_LOOK_EVERY_S = 3.0


class Plan(msgspec.Struct, frozen=True):
    """How much of what."""

    seed: int
    agents: int = 3
    faults: int = 500
    runs: int = 200
    every_s: float = 1.5
    """Between two faults, on average."""
    quiet_s: float = 240.0
    """How long the runs may take to end once nothing is broken any more."""
    leave_out: frozenset[str] = frozenset()
    """Faults that do not happen."""


async def carry_out(plan: Plan, folder: pathlib.Path) -> report.Report:
    """Let agents work while everything breaks, and judge what they have made of it."""
    started = time.monotonic()
    on = world.World(folder, plan.agents)
    async with on.running():
        requester = load.Requester(on.url, plan.seed)
        injector = faults.Injector(on, plan.seed, plan.leave_out)
        # Requests come for as long as things break: not one second of it goes unused.
        every_s = plan.every_s * plan.faults / plan.runs
        await asyncio.gather(
            requester.ask_for(plan.runs, every_s), injector.inject(plan.faults, plan.every_s)
        )
        on.mend()
        accepted = [promise.run_id for promise in requester.promises]
        found = await _settled(on, accepted, plan.quiet_s)
        journals = await judge.read(on.url)
        promises = requester.promises
        return report.Report(
            seed=plan.seed,
            agents=plan.agents,
            seconds=time.monotonic() - started,
            faults=dict(injector.done),
            runs=report.shapes(promises),
            ends=_ends(journals),
            repeated=sum(one.repeated for one in promises),
            cancelled=sum(one.cancelled for one in promises),
            verdict=found,
        )


async def _settled(on: world.World, accepted: list[str], quiet_s: float) -> judge.Verdict:
    """Judge again and again until every run has ended, or had its time."""
    until = time.monotonic() + quiet_s
    while True:
        journals = await judge.read(on.url)
        pending = [one for one in judge.examine(journals, accepted) if one.broken in judge.PENDING]
        if not pending or time.monotonic() > until:
            return await judge.verdict(on.url, on.artifacts, accepted)
        await asyncio.sleep(_LOOK_EVERY_S)


def _ends(journals: dict[str, list[bytes]]) -> dict[str, int]:
    """Count how runs ended."""
    last = (judge.facts_of(commits)[-1] for commits in journals.values() if commits)
    kinds = (str(fact.__struct_config__.tag) for fact in last if isinstance(fact, judge.TERMINAL))
    return dict(collections.Counter(kinds))
