"""Owns the demo's last step: a deployed model is asked about a row that it was not trained on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from agent.artifacts import store
from agent.demo import results
from agent.serving import inputs
from protocol import artifacts, client, commands, serving
from stages import models, values

READY_S = 60.0
"""A host that was there before starts again with its agent."""
_LOOK_S = 0.25


async def ask(
    agent: client.Client, status: commands.RunStatus, kept: store.Store
) -> results.Answer:
    """Ask over the bus, and give what was said beside what is known."""
    row, actual = _held_back(status, kept)
    async with asyncio.timeout(READY_S):
        url = await _ready(agent, status.pipeline)
    told, version, _ = await agent.predict(status.pipeline, serving.Predict(row=row))
    return results.Answer(url, version, told.predictions[0], actual)


async def _ready(agent: client.Client, name: str) -> str:
    """Wait until the model answers, and give where."""
    while True:
        found = await agent.endpoints(name)
        for one in found.endpoints:
            if one.state == "serving" and one.url:
                return one.url
        await asyncio.sleep(_LOOK_S)


def _held_back(status: commands.RunStatus, kept: store.Store) -> tuple[serving.Row, Any]:
    """Take the first row of the test part, and its target."""
    stages = {stage.id: stage for stage in status.stages}
    model = cast("models.Model", _value(kept, stages["train"], "model"))
    table = cast("values.Table", _value(kept, stages["split"], "test"))
    row = table.arrow.slice(0, 1).to_pylist()[0]
    asked = {column.name: inputs.plain(row[column.name]) for column in model.card.columns}
    return asked, row[model.card.target]


def _value(kept: store.Store, stage: commands.StageStatus, port: str) -> values.Value:
    ref = stage.outputs[port]
    assert isinstance(ref, artifacts.ArtifactRef)
    return kept.get(ref)
