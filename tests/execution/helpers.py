"""Owns what the tests of executors share: making work, watching it, waiting for what it does."""

from __future__ import annotations

import asyncio
import itertools

from agent.run import effects
from protocol import pipelines

MODULES = ("tests.execution.sample_stages",)
WAIT_S = 20.0
_attempts = itertools.count(1)


class Watcher:
    """Keeps what an attempt tells."""

    def __init__(self):
        self.told = []
        self.notes = []
        self.first = asyncio.Event()
        self.at_work = asyncio.Event()

    def began(self):
        self.at_work.set()

    def progress(self, fraction, message, metrics):
        self.told.append((fraction, message, dict(metrics)))
        self.first.set()

    def note(self, fact, details):
        self.notes.append((fact, dict(details)))
        self.first.set()


def work(use, *, inputs=None, item=None, into=None, cache="use", resources=None, **params):
    """Make a piece of work with a key of its own."""
    return effects.Work(
        key=effects.WorkKey("run-1", use.replace(".", "-"), None, next(_attempts)),
        use=use,
        placement="ray",
        params=params,
        inputs=inputs or {},
        item=item,
        item_into=into,
        cache=cache,
        resources=pipelines.Resources(**(resources or {})),
        seed=7,
        pipeline="sample",
        idempotency_key="idem",
    )


async def wait_file(path):
    """Wait until a file has content, and give it."""
    async with asyncio.timeout(WAIT_S):
        while not path.exists() or not path.read_text():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
    return path.read_text()


async def start(executor, piece):
    """Start an attempt and wait until it says something."""
    watcher = Watcher()
    task = asyncio.create_task(executor.run(piece, watcher))
    heard = asyncio.create_task(watcher.first.wait())
    await asyncio.wait({task, heard}, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    assert heard.done()
    return task, watcher
