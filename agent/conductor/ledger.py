"""Owns the reading of a run: its journal folded into a machine that can go on."""

from __future__ import annotations

import msgspec

from agent import catalog
from agent.bus import journal
from agent.conductor import scribe
from agent.run import machine, state
from protocol import chain, codec, events


class RunNotFound(Exception):
    """There is no journal of this run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r}")
        self.run_id = run_id


class Ledger(msgspec.Struct):
    """A run as its journal tells it."""

    machine: machine.Machine
    position: scribe.Position
    last: events.Commit

    @property
    def epoch(self) -> int:
        """Give the epoch of the last commit; whoever takes the run writes under a newer one."""
        return self.last.epoch


async def load(run_id: str, journals: journal.Journal, stages: catalog.Catalog) -> Ledger:
    """Fold a run's journal; raise RunNotFound if there is none."""
    commits = await journals.read(run_id)
    if not commits:
        raise RunNotFound(run_id)
    return fold(commits, stages)


def fold(commits: list[tuple[int, bytes]], stages: catalog.Catalog) -> Ledger:
    """Fold commits, given as (stream sequence, bytes) from the first on."""
    decoded = [codec.decode(data, events.Commit) for _, data in commits]
    accepted = decoded[0].events[0]
    assert isinstance(accepted, events.RunAccepted)
    folded = begin(accepted, stages)
    folded.fold([fact for commit in decoded for fact in commit.events][1:])
    sequence, data = commits[-1]
    position = scribe.Position(sequence, decoded[-1].number, chain.digest(data))
    return Ledger(folded, position, decoded[-1])


def begin(accepted: events.RunAccepted, stages: catalog.Catalog) -> machine.Machine:
    """Make the machine of a run from its first event."""
    plan = stages.plan(accepted.pipeline)
    return machine.Machine(plan, state.RunState.from_accepted(accepted, plan))
