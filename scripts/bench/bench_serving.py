"""Measures one prediction against a bare Ray Serve echo, and batches against the model itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import measure
import model_stages

HERE = pathlib.Path(__file__).parent
PATH = f"{HERE}:{HERE.parents[1]}"
sys.path.append(str(HERE.parents[1]))

from agent import address, config  # noqa: E402 - the scripts are no package that is installed
from agent.cli import ending  # noqa: E402
from agent.execution import cluster  # noqa: E402
from agent.serving import inputs, place  # noqa: E402
from protocol import client  # noqa: E402
from scripts import agents  # noqa: E402

ROUNDS, BATCHES = 500, 15
ROWS, TOGETHER = 5_000, 8
SETTINGS = ("ray.workers=1", "specialist.embedded=false", "logs.level=error")
KINDS: tuple[model_stages.Kind, ...] = ("logistic", "forest")


async def main() -> None:
    """Measure."""
    measure.heading()
    os.environ["PYTHONPATH"] = PATH
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        held = cluster.start(config.Ray(), folder / "floor")
        try:
            with _echo() as echo:
                async with _deployed(folder) as url, httpx.AsyncClient(timeout=60) as http:
                    for kind in KINDS:
                        await _one(http, echo, f"{url}/v1/models/{kind}:predict", kind)
                    for kind in KINDS:
                        await _many(http, f"{url}/v1/models/{kind}:predict", kind)
        finally:
            cluster.close(held)


@contextlib.contextmanager
def _echo() -> Iterator[str]:
    """Give the URL of a deployment that answers with what it was asked."""
    from ray import serve

    @serve.deployment(logging_config={"enable_access_log": False})
    class Echo:
        async def __call__(self, request: Any) -> bytes:
            """Answer."""
            body: bytes = await request.body()
            return body

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Echo.bind(), name="echo", route_prefix="/echo")
    yield f"http://127.0.0.1:{port}/echo"
    serve.shutdown()


@contextlib.asynccontextmanager
async def _deployed(folder: pathlib.Path) -> AsyncIterator[str]:
    """Have an agent deploy the models; give the URL of its host."""
    agent = agents.Agent("bench", folder, SETTINGS, stages="model_stages", env={"PYTHONPATH": PATH})
    data = folder / "bench"
    await agent.start()
    try:
        async with client.connect(address.read(data).nats_url) as ask:
            for kind in KINDS:
                await _deploy(ask, kind)
        yield place.read(place.folder(data)).url
    finally:
        await agent.stop()
        await asyncio.to_thread(ending.end, data)


async def _deploy(ask: client.Client, kind: str) -> None:
    stages = [
        {"id": "fit", "use": "bench.fit", "with": {"kind": kind}},
        {"id": "go", "use": "deploy.model", "with": {"name": kind}, "inputs": {"model": "fit"}},
    ]
    accepted = await ask.submit(pipeline={"name": "bench", "stages": stages})
    async for _ in ask.follow(accepted.run_id):
        pass
    status = await ask.status(accepted.run_id)
    if status.state != "succeeded":
        raise RuntimeError(status.problem)


async def _one(http: httpx.AsyncClient, echo: str, url: str, kind: model_stages.Kind) -> None:
    _, rows = model_stages.fitted(kind)
    body = json.dumps({"row": rows.iloc[0].to_dict()}).encode()

    async def cost() -> None:
        (await http.post(url, content=body)).raise_for_status()

    async def floor() -> None:
        (await http.post(echo, content=body)).raise_for_status()

    costs, floors = await measure.against_floor(cost, floor, ROUNDS)
    measure.tell(f"one prediction, {kind}", costs, floors, limit=2)


async def _many(http: httpx.AsyncClient, url: str, kind: model_stages.Kind) -> None:
    import pandas as pd
    import pyarrow as pa

    model, rows = model_stages.fitted(kind)
    frame = pd.concat([rows] * (ROWS // len(rows) + 1), ignore_index=True)[:ROWS]
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    async def floor() -> None:
        for _ in range(TOGETHER):
            model.predict(frame)

    await _batch(http, url, f"{kind}, Arrow", sink.getvalue().to_pybytes(), floor)
    text = json.dumps({"rows": frame.to_dict("records")}).encode()
    await _batch(http, url, f"{kind}, JSON", text, floor)


async def _batch(
    http: httpx.AsyncClient, url: str, what: str, body: bytes, floor: measure.Work
) -> None:
    """Measure throughput: several requests at a time, against the same work one after the other."""
    headers = {"Content-Type": inputs.ARROW} if what.endswith("Arrow") else {}

    async def one() -> None:
        (await http.post(url, content=body, headers=headers)).raise_for_status()

    async def cost() -> None:
        await asyncio.gather(*(one() for _ in range(TOGETHER)))

    costs, floors = await measure.against_floor(cost, floor, BATCHES)
    measure.tell(f"{TOGETHER} x {ROWS} rows, {what}", costs, floors, limit=1.25)


if __name__ == "__main__":
    asyncio.run(main())
