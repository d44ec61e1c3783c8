"""Owns the reading of a run: its journal folded into a machine that can go on."""

from __future__ import annotations

import msgspec

from agent import catalog
from agent.bus import journal
from agent.conductor import losses, scribe
from agent.run import machine, state
from protocol import chain, codec, events


class RunNotFound(Exception):
    """There is no journal of this run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no run {run_id!r}")
        self.run_id = run_id


class Unreadable(Exception):
    """A journal cannot be read: something in it is not of the contract, or cannot follow."""

    def __init__(self, run_id: str, reason: Exception) -> None:
        text = str(reason)[:500] or type(reason).__name__
        super().__init__(f"the journal of run {run_id!r} cannot be read: {text}")
        self.run_id = run_id


class JournalBroken(Exception):
    """What was read of a journal is not whole, so nothing may be decided from it."""

    def __init__(self, run_id: str, number: int) -> None:
        super().__init__(f"commit {number} of run {run_id!r} does not follow the one before it")
        self.run_id = run_id
        self.number = number


class Ledger(msgspec.Struct):
    """A run as its journal tells it."""

    machine: machine.Machine
    position: scribe.Position
    last: events.Commit
    losses: losses.Losses

    @property
    def epoch(self) -> int:
        """Give the epoch of the last commit; whoever takes the run writes under a newer one."""
        return self.last.epoch


async def load(run_id: str, journals: journal.Journal, stages: catalog.Catalog) -> Ledger:
    """Fold a run's journal; raise RunNotFound if there is none, Unreadable if it is no journal."""
    commits = await journals.read(run_id)
    if not commits:
        raise RunNotFound(run_id)
    try:
        return fold(commits, stages)
    except Exception as error:  # whatever was written there, it is nothing that we can go on from
        raise Unreadable(run_id, error) from error


def fold(commits: list[tuple[int, bytes]], stages: catalog.Catalog) -> Ledger:
    """Fold commits, given as (stream sequence, bytes) from the first on; raise JournalBroken."""
    decoded = [codec.decode(data, events.Commit) for _, data in commits]
    _check_whole(decoded, [data for _, data in commits])
    accepted = decoded[0].events[0]
    assert isinstance(accepted, events.RunAccepted)
    folded = begin(accepted, stages)
    folded.fold([fact for commit in decoded for fact in commit.events][1:])
    sequence, data = commits[-1]
    position = scribe.Position(sequence, decoded[-1].number, chain.digest(data))
    return Ledger(folded, position, decoded[-1], losses.find(decoded))


def begin(accepted: events.RunAccepted, stages: catalog.Catalog) -> machine.Machine:
    """Make the machine of a run from its first event."""
    plan = stages.plan(accepted.pipeline)
    return machine.Machine(plan, state.RunState.from_accepted(accepted, plan))


def _check_whole(decoded: list[events.Commit], commits: list[bytes]) -> None:
    previous = ""
    for number, (commit, data) in enumerate(zip(decoded, commits, strict=True), start=1):
        if (commit.number, commit.previous) != (number, previous):
            raise JournalBroken(commit.run_id, number)
        previous = chain.digest(data)
