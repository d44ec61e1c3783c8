"""Owns the load: real pipelines, asked for in every way, some twice, some called off."""

from __future__ import annotations

import asyncio
import pathlib
import random
from collections.abc import Callable
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
import numpy as np

from protocol import client, commands, subjects

REQUESTER = "chaos"
_AWAY_S = 0.3
_PATIENCE_S = 600.0
"""How long a requester goes on asking while nobody answers."""

_OVER = {"conflict", "not_found"}
"""How a cancellation is refused of a run that is over, or not accepted yet."""

Shape = Callable[[random.Random], dict[str, Any]]


class Promise(msgspec.Struct, frozen=True):
    """A run that somebody was told of, and what else was asked of it."""

    run_id: str
    shape: str
    way: str
    """`request` or `queue`."""
    repeated: bool
    cancelled: bool


def chain(chance: random.Random) -> dict[str, Any]:
    """Lay stages one after the other."""
    stages: list[dict[str, Any]] = []
    for number in range(chance.randint(3, 8)):
        inputs = {"before": f"s{number - 1}"} if number else {}
        nap = {"seconds": chance.uniform(0.02, 0.4), "item": number}
        stages.append({"id": f"s{number}", "use": "chaos.nap", "with": nap, "inputs": inputs})
    return {"name": "chain", "stages": _patient(stages)}


def wide(chance: random.Random) -> dict[str, Any]:
    """Fan out, and gather."""
    items = {"id": "items", "use": "chaos.items", "with": {"count": chance.randint(5, 30)}}
    each = {
        "id": "each",
        "use": "chaos.nap",
        "with": {"seconds": chance.uniform(0.0, 0.1)},
        "for_each": {"items": "items", "as": "item"},
    }
    total = {"id": "total", "use": "chaos.sum", "inputs": {"each": "each"}}
    return {"name": "wide", "stages": _patient([items, each, total])}


def model(chance: random.Random) -> dict[str, Any]:
    """Train a model and judge it."""
    seed = chance.randrange(1_000_000)
    stages: list[dict[str, Any]] = [
        {"id": "load", "use": "ingest.table", "with": {"uri": "file:table.csv"}},
        {
            "id": "split",
            "use": "prepare.split",
            "inputs": {"table": "load"},
            "with": {"target": "y", "test_fraction": 0.25, "seed": seed},
        },
        {
            "id": "train",
            "use": "train.model",
            "inputs": {"train": "split.train"},
            "with": {"framework": "sklearn", "model": "LogisticRegression", "target": "y"},
        },
        {
            "id": "score",
            "use": "evaluate.holdout",
            "inputs": {"model": "train", "table": "split.test"},
        },
    ]
    return {"name": "model", "stages": _patient(stages)}


SHAPES: dict[str, tuple[Shape, int]] = {"chain": (chain, 5), "wide": (wide, 3), "model": (model, 1)}
"""By name, with how often each is chosen."""


def _patient(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Have every stage be tried often: faults come thick and fast."""
    return [{**stage, "retry": {"max_attempts": 20, "backoff_s": 0.2}} for stage in stages]


def write_table(folder: pathlib.Path) -> None:
    """Write the table that models are trained on."""
    noise = np.random.default_rng(7)
    features = noise.normal(size=(400, 3))
    target = (features @ [1.0, -2.0, 0.5] + noise.normal(scale=0.3, size=400) > 0).astype(int)
    rows = [f"{a:.4f},{b:.4f},{c:.4f},{y}" for (a, b, c), y in zip(features, target, strict=True)]
    (folder / "table.csv").write_text("\n".join(["a,b,c,y", *rows]) + "\n")


class Requester:
    """Asks for runs until each has been promised, whatever happens meanwhile."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._chance = random.Random(seed)  # noqa: S311 - it has to be repeatable
        self.promises: list[Promise] = []

    async def ask_for(self, runs: int, every_s: float) -> None:
        """Ask for a number of runs, one after the other."""
        connecting = client.connect(self._url, error_cb=_ignore)
        async with connecting as agent, asyncio.TaskGroup() as asking:
            for number in range(runs):
                asking.create_task(self._ask(agent, number))
                await asyncio.sleep(self._chance.uniform(0, 2 * every_s))

    async def _ask(self, agent: client.Client, number: int) -> None:
        chance = random.Random(self._chance.randrange(2**32))  # noqa: S311 - as above
        names = list(SHAPES)
        shape = chance.choices(names, [SHAPES[name][1] for name in names])[0]
        request = client.make_request(
            pipeline=SHAPES[shape][0](chance),
            options={"priority": chance.randint(0, 9)},
            request_id=f"chaos-{number}",
            requester=REQUESTER,
        )
        way = "queue" if chance.random() < 0.3 else "request"  # noqa: PLR2004 - three in ten
        repeated, cancelled = chance.random() < 0.2, chance.random() < 0.1  # noqa: PLR2004
        run_id = await self._insist(agent, way, request)
        self.promises.append(Promise(run_id, shape, way, repeated, cancelled))
        if repeated:
            again = await self._insist(agent, chance.choice(["queue", "request"]), request)
            assert again == run_id
        if cancelled:
            await asyncio.sleep(chance.uniform(0, 3))
            await _until_answered(lambda: agent.cancel(run_id, reason="chaos"))

    async def _insist(
        self, agent: client.Client, way: str, request: commands.PipelineRequest
    ) -> str:
        if way == "queue":
            await _until_answered(lambda: agent.enqueue(request))
            return subjects.run_id_for(request.requester, request.request_id)
        return (await _until_answered(lambda: agent.submit(request))).run_id


async def _ignore(_: Exception) -> None:
    """Expect the broker to be away now and then."""


async def _until_answered(ask: Callable[[], Any]) -> Any:
    """Ask until there is an answer; a refusal for good is one too, where the run is over."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            try:
                return await ask()
            except client.ClientError as error:
                if error.problem.code in _OVER:
                    return None
                if not error.problem.retryable:
                    raise
            except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError):
                pass
            await asyncio.sleep(_AWAY_S)
