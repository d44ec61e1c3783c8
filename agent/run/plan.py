"""Owns the plan of a run: a checked pipeline, indexed by integers so that no step rescans it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agent.run import checks, errors, graph, shapes
from protocol import pipelines

Port = shapes.Port
Shape = shapes.Shape
InvalidPipeline = errors.InvalidPipeline


class Plan(msgspec.Struct, frozen=True):
    """What the core must know of a pipeline; stages are named by their place in it."""

    pipeline: pipelines.Pipeline
    stages: tuple[pipelines.Stage, ...]
    kinds: tuple[shapes.Shape, ...]
    ids: dict[str, int]
    bindings: tuple[tuple[shapes.Binding, ...], ...]
    """By stage: where each input port that is wired gets its data."""
    items: tuple[shapes.Binding | None, ...]
    """By stage: what it is fanned out over."""
    conditions: tuple[tuple[shapes.Bound, ...], ...]
    depends: tuple[tuple[int, ...], ...]
    """By stage: the stages it waits for, each once."""
    dependents: tuple[tuple[int, ...], ...]
    fallbacks: tuple[int | None, ...]
    users: tuple[tuple[int, ...], ...]
    """By stage: the stages it is a fallback for."""
    priority: tuple[int, ...]
    """By stage: its place in the order of launching, longest remaining path first."""
    max_fan_out: int


def plan(
    pipeline: pipelines.Pipeline,
    known: Mapping[str, shapes.Shape],
    *,
    max_stages: int,
    max_fan_out: int,
) -> Plan:
    """Check a pipeline and index it, in time linear in its size; InvalidPipeline tells all."""
    wired = checks.check(pipeline, known, max_stages=max_stages)
    successors = checks.order_graph(wired)
    weights = [1] * len(wired.stages) + [0] * len(wired.stages)
    ranks = graph.ranks(successors, weights)
    in_order = sorted(range(len(wired.stages)), key=lambda i: (-ranks[i], i))
    priority = [0] * len(in_order)
    for place, index in enumerate(in_order):
        priority[index] = place
    return Plan(
        pipeline=pipeline,
        stages=wired.stages,
        kinds=tuple(shape or shapes.Shape() for shape in wired.shapes),
        ids=wired.ids,
        bindings=tuple(tuple(bound) for bound in wired.bindings),
        items=tuple(wired.items),
        conditions=tuple(tuple(bound) for bound in wired.conditions),
        depends=tuple(tuple(deps) for deps in wired.depends),
        dependents=tuple(tuple(targets) for targets in wired.dependents()),
        fallbacks=tuple(wired.fallbacks),
        users=tuple(tuple(users) for users in wired.users()),
        priority=tuple(priority),
        max_fan_out=max_fan_out,
    )
