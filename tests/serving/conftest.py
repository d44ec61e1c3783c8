"""A real agent and its serving host, for a module's tests."""

from __future__ import annotations

import pytest_asyncio

from tests.serving.place_of_work import Place


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def work(tmp_path_factory):
    one = Place(tmp_path_factory.mktemp("serving"))
    await one.agent.start()
    yield one
    await one.close()


@pytest_asyncio.fixture(loop_scope="session")
async def ask(work):
    async with work.asking() as one:
        yield one
