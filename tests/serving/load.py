"""Owns clients that ask a deployed model all the while, and remember every answer."""

from __future__ import annotations

import asyncio
import collections
import contextlib

import httpx

from agent import tasks
from protocol import serving

ROW = b'{"row": {"x": 1}}'
MISSING = b'{"row": {"x": null}}'


class Load:
    """What was answered, and what was not."""

    def __init__(self) -> None:
        self.versions: collections.Counter[str] = collections.Counter()
        self.failed: list[str] = []

    @property
    def asked(self) -> int:
        return self.versions.total() + len(self.failed)

    async def ask(self, http: httpx.AsyncClient, url: str, body: bytes) -> None:
        try:
            answer = await http.post(url, content=body)
        except httpx.TransportError as error:
            self.failed.append(repr(error))
            return
        if answer.status_code == 200:
            self.versions[answer.headers[serving.MODEL_VERSION]] += 1
        else:
            self.failed.append(answer.text)

    async def wait_more(self, count: int) -> None:
        """Wait until so many more were asked."""
        enough = self.asked + count
        async with asyncio.timeout(60):
            while self.asked < enough:  # noqa: ASYNC110 - tasks of this loop
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def constant(url: str, bodies: tuple[bytes, ...] = (ROW,) * 4):
    """Let as many clients as there are bodies ask, one request after the other each."""
    load = Load()

    async def client(http: httpx.AsyncClient, body: bytes) -> None:
        while True:
            await load.ask(http, url, body)
            await asyncio.sleep(0.005)

    async with httpx.AsyncClient(timeout=30) as http:
        asking = [asyncio.create_task(client(http, body)) for body in bodies]
        try:
            await load.wait_more(len(bodies))
            yield load
        finally:
            await tasks.end(*asking)
