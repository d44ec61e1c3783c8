"""Owns the stages that only the tests of the swarm need."""

from __future__ import annotations

from stages import kit, values


@kit.stage("swarm.note", cacheable=False)
class Note(kit.Stage, frozen=True):
    """Note one fact of a size."""

    size: int

    def run(self, context: kit.Context) -> values.Report:
        context.note("registered", text="x" * self.size)
        return values.Report({})
