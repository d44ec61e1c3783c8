"""A template is designed after a look at the data, by as many as ask for it at a time."""

from __future__ import annotations

import asyncio

import pytest

from agent import designer
from agent.artifacts import cache, store
from agent.execution import cached, in_agent
from protocol import commands
from stages import kit


@pytest.fixture
async def executor(tmp_path, kept):
    services = kit.Services(data_roots=(str(tmp_path),))
    inner = in_agent.InAgentExecutor(kept, services)
    made = cached.CachedExecutor(inner, cache.Cache(kept), kept, services)
    yield made
    await made.close()


@pytest.fixture
def kept(tmp_path):
    return store.Store((tmp_path / "store").as_uri(), tmp_path / "local").make()


def request(requester, data):
    params = {"uri": data.name, "target": "y"}
    return commands.PipelineRequest("same", requester, template="tabular-regression", params=params)


@pytest.mark.parametrize("other", ["me", "somebody-else"])
async def test_the_same_request_id_is_designed_twice_at_a_time(executor, kept, tmp_path, other):
    data = tmp_path / "data.csv"
    data.write_text("a,y\n" + "".join(f"{n},{n * 2}\n" for n in range(50)))
    one = designer.Designer(executor, kept)
    first, second = await asyncio.gather(*(one.design(request(who, data)) for who in ("me", other)))
    assert first == second
    assert first.stages[-1].use
