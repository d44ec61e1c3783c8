"""Owns the report of a campaign: what was broken, what was asked for, and what became of it."""

from __future__ import annotations

import collections
from collections.abc import Iterable

import msgspec

from scripts.chaos_parts import judge, load


class Report(msgspec.Struct, frozen=True):
    """What a campaign did and found."""

    seed: int
    agents: int
    seconds: float
    faults: dict[str, int]
    runs: dict[str, int]
    """By the shape of the pipeline."""
    ends: dict[str, int]
    repeated: int
    cancelled: int
    verdict: judge.Verdict

    @property
    def good(self) -> bool:
        """Tell whether every promise was kept."""
        return not self.verdict.findings

    def text(self) -> str:
        """Say it for people."""
        found = self.verdict
        lines = [
            f"seed {self.seed}, {self.agents} agents, {self.seconds:.0f} s",
            f"faults   {sum(self.faults.values())}: {_counts(self.faults)}",
            f"runs     {found.runs}: {_counts(self.runs)}",
            f"         {self.repeated} asked for twice, {self.cancelled} called off",
            f"ended    {_counts(self.ends)}",
            f"judged   {found.commits} commits, {found.artifacts} artifacts",
            f"         {found.takeovers} take-overs",
            f"findings {len(found.findings)}",
            *(f"  {one.run_id}: {one.broken}: {one.message}" for one in found.findings),
        ]
        return "\n".join(lines)


def shapes(promises: Iterable[load.Promise]) -> dict[str, int]:
    """Count the runs of each shape."""
    return dict(collections.Counter(one.shape for one in promises))


def _counts(of: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in of.items())
