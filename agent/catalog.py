"""Owns what the agent knows of the kinds of stages: their shapes, their parameters, their cards."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from agent import parameters
from agent.run import plan
from protocol import codec, commands, pipelines, problems
from stages import kit, registry


class Catalog:
    """The kinds of stages this agent can run, and the limits on pipelines made of them."""

    def __init__(
        self, *, max_stages: int = 10_000, max_fan_out: int = 10_000, modules: tuple[str, ...] = ()
    ) -> None:
        for module in modules:
            registry.register(importlib.import_module(module))
        self._definitions: Mapping[str, kit.Definition] = registry.stages()
        self._shapes = {name: _shape(item) for name, item in self._definitions.items()}
        self._max_stages = max_stages
        self._max_fan_out = max_fan_out

    def names(self) -> list[str]:
        """Name the kinds of stages."""
        return sorted(self._definitions)

    def definition(self, name: str) -> kit.Definition:
        """Look a kind of stage up; raises registry.UnknownStage."""
        return registry.get(name)

    def plan(self, pipeline: pipelines.Pipeline) -> plan.Plan:
        """Plan a pipeline; raises plan.InvalidPipeline with all its problems."""
        return plan.plan(
            pipeline, self._shapes, max_stages=self._max_stages, max_fan_out=self._max_fan_out
        )

    def check(self, pipeline: pipelines.Pipeline) -> list[problems.Problem]:
        """Find what is wrong with a pipeline: its graph and its stages' parameters.

        All of it is found, but of very much no more than is told.
        """
        found: list[problems.Problem] = []
        try:
            self.plan(pipeline)
        except plan.InvalidPipeline as invalid:
            found += invalid.problems
        for index, stage in enumerate(pipeline.stages):
            if len(found) >= problems.MAX_PROBLEMS:
                break
            found += self._param_problems(index, stage)
        return found

    def _param_problems(self, index: int, stage: pipelines.Stage) -> list[problems.Problem]:
        definition = self._definitions.get(stage.use)
        if definition is None:
            return []  # the plan has said so
        given = dict(stage.params)
        path = f"$.pipeline.stages[{index}]"
        missing = f"{path}.with.{stage.for_each.into}" if stage.for_each else None
        found = codec.diagnose(given, definition.cls, path=f"{path}.with")
        return [one for one in found if one.path != missing]  # that comes with each element

    def cards(self, prefix: str = "") -> list[commands.StageCard]:
        """Describe the kinds of stages, by name."""
        chosen = (d for name, d in sorted(self._definitions.items()) if name.startswith(prefix))
        return [_card(definition) for definition in chosen]


def _shape(definition: kit.Definition) -> plan.Shape:
    return plan.Shape(
        inputs=tuple(_port(port) for port in definition.inputs),
        outputs=tuple(_port(port) for port in definition.outputs),
        effects=definition.effects,
        delegated=definition.delegated,
    )


def _port(port: kit.Port) -> plan.Port:
    return plan.Port(name=port.name, kind=port.kind, optional=port.optional, many=port.many)


def _card(definition: kit.Definition) -> commands.StageCard:
    return commands.StageCard(
        name=definition.name,
        summary=definition.summary,
        inputs=[_wire_port(port) for port in definition.inputs],
        outputs=[_wire_port(port) for port in definition.outputs],
        params=parameters.schema(definition.cls),
        cacheable=definition.cacheable,
    )


def _wire_port(port: kit.Port) -> commands.Port:
    return commands.Port(name=port.name, kind=port.kind, optional=port.optional, many=port.many)
