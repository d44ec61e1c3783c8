"""Owns the table of who takes what from whom, while a pipeline is being checked."""

from __future__ import annotations

from collections.abc import Iterator

from agent.run import shapes
from protocol import pipelines


def conditions(stage: pipelines.Stage) -> list[pipelines.Condition]:
    """List the conditions of a stage, however they were written."""
    if stage.when is None:
        return []
    return stage.when if isinstance(stage.when, list) else [stage.when]


class Wired:
    """Stages by index, and what has been looked up for each."""

    def __init__(self, stages: tuple[pipelines.Stage, ...]) -> None:
        count = len(stages)
        self.stages = stages
        self.ids: dict[str, int] = {}
        self.shapes: list[shapes.Shape | None] = [None] * count
        self.bindings: list[list[shapes.Binding]] = [[] for _ in stages]
        self.items: list[shapes.Binding | None] = [None] * count
        self.conditions: list[list[shapes.Bound]] = [[] for _ in stages]
        self.depends: list[dict[int, None]] = [{} for _ in stages]
        self.fallbacks: list[int | None] = [None] * count

    def depend(self, index: int, upstream: int) -> None:
        """Note that one stage waits for another."""
        self.depends[index][upstream] = None

    def dependents(self) -> list[list[int]]:
        """Turn `depends` around."""
        found: list[list[int]] = [[] for _ in self.stages]
        for index, upstreams in enumerate(self.depends):
            for upstream in upstreams:
                found[upstream].append(index)
        return found

    def users(self) -> list[list[int]]:
        """Turn `fallbacks` around."""
        found: list[list[int]] = [[] for _ in self.stages]
        for index, fallback in enumerate(self.fallbacks):
            if fallback is not None:
                found[fallback].append(index)
        return found

    def fanned(self, index: int) -> bool:
        """Tell whether a stage runs once per element."""
        return self.stages[index].for_each is not None

    def listed(self, index: int, output: shapes.Port) -> bool:
        """Tell whether an output is a list of artifacts."""
        return output.many or self.fanned(index)

    def has_list(self, index: int) -> bool:
        """Tell whether a stage that is not fanned out has an output that lists artifacts."""
        shape = self.shapes[index]
        return shape is not None and any(port.many for port in shape.outputs)

    def output(self, index: int, name: str) -> shapes.Port | None:
        """Find an output port."""
        shape = self.shapes[index]
        return next((p for p in shape.outputs if p.name == name), None) if shape else None

    def taken(self) -> Iterator[tuple[int, str, str]]:
        """Walk (stage, output, id of who takes it) over everything that is wired."""
        for index, bound in enumerate(self.bindings):
            items = self.items[index]
            for binding in [*bound, *([items] if items else [])]:
                yield binding.source, binding.source_port, self.stages[index].id
