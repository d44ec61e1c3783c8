"""Owns who made what an attempt could not read, and so how it is made again."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from agent.run import state, units
from protocol import artifacts, problems


def named(run: state.RunState, unit: units.Unit, problem: problems.Problem) -> problems.Problem:
    """Add to a problem that names an input's digest which stage made that input.

    A stage that has succeeded never runs again by itself: somebody has to ask for it.
    """
    makers = [maker for maker, digest in _read(run, unit) if digest in problem.message]
    if not makers:
        return problem
    stages = " and ".join(repr(maker) for maker in dict.fromkeys(makers))
    hint = (
        f"stage {stages} made it, and makes it again: mlpm resume {run.run_id} --from {makers[0]}"
    )
    return msgspec.structs.replace(problem, hint=hint)


def _read(run: state.RunState, unit: units.Unit) -> Iterator[tuple[str, str]]:
    """Give the stage and the digest of everything that an attempt reads."""
    items = run.plan.items[unit.stage]
    for binding in [*run.plan.bindings[unit.stage], *([items] if items else [])]:
        source = run.stand_in(binding.source)
        for ref in _refs(source.outputs.get(binding.source_port)):
            yield run.plan.stages[source.stage].id, ref.digest


def _refs(output: artifacts.Output | None) -> list[artifacts.ArtifactRef]:
    if output is None:
        return []
    return output if isinstance(output, list) else [output]
