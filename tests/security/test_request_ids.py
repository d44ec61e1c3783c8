"""Whose run a request_id names: who asks again for the same gets it, and nobody else does."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import nats
import pytest
import pytest_asyncio

from agent import config, service
from agent.bus import journal
from protocol import client, codec, events, signing, subjects
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS
NAMES = subjects.Subjects()
ADA, BOB = (signing.Key(signing.new_seed()) for _ in range(2))
TRUST = (f"ada={ADA.public}", f"bob={BOB.public}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    """Give an agent that knows two keys and demands none."""
    security = config.Security(trusted_keys=TRUST)
    settings = helpers.settings(tmp_path_factory.mktemp("ids"), security=security)
    async with service.running(settings, modules=helpers.MODULES) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def askers(agent):
    """Give clients: one that signs nothing, and one for each key."""
    async with contextlib.AsyncExitStack() as stack:
        keys = {"nobody": None, "ada": ADA, "bob": BOB}
        connecting = {
            name: client.connect(agent.nats_url, signing_key=key) for name, key in keys.items()
        }
        yield {name: await stack.enter_async_context(one) for name, one in connecting.items()}


@pytest_asyncio.fixture(loop_scope="session")
async def bus(agent):
    connection = await nats.connect(agent.nats_url)
    yield connection
    await connection.close()


async def conflict(asking):
    """Give the problem with which a request_id is another's."""
    with pytest.raises(client.Refused) as told:
        await asking
    problem = told.value.problem
    assert (problem.code, problem.path) == ("conflict", "$.request_id")
    assert "another request_id" in problem.hint
    return problem


def ask_for(name="a", **more):
    return helpers.request(stage(name, "sample.noop"), **more)


def templated(request, template="tabular"):
    return msgspec.structs.replace(request, pipeline=None, template=template)


async def leave(bus, request, key=None):
    """Leave a request in the queue that looks like no other there."""
    data = codec.encode(request)
    headers = key.headers(NAMES.pipeline_queue, data) if key else None
    await bus.jetstream().publish(NAMES.pipeline_queue, data, headers=headers)


@pytest.mark.parametrize(
    ("first", "later"),
    [("ada", "nobody"), ("ada", "bob"), ("nobody", "ada")],
)
async def test_a_run_is_not_given_to_whoever_has_signed_otherwise(askers, first, later):
    request = ask_for()
    run_id = (await askers[first].submit(request)).run_id
    problem = await conflict(askers[later].submit(request))
    assert problem.run_id == run_id
    assert not any(name in problem.message for name in ("ada", "bob"))
    await conflict(askers[later].submit(templated(request)))
    again = await askers[first].submit(request)
    assert (again.run_id, again.duplicate) == (run_id, True)
    told = await helpers.story(askers["nobody"], run_id)
    assert told[0].signed_by == (None if first == "nobody" else first)


async def test_another_pipeline_is_another_request(askers):
    request = ask_for()
    await askers["ada"].submit(request)
    other = msgspec.structs.replace(request, pipeline=ask_for("b").pipeline)
    for wrong in (other, templated(request)):
        await conflict(askers["ada"].submit(wrong))


async def test_neither_the_order_of_parameters_nor_the_encoding_makes_another_request(bus):
    first, again = (
        helpers.request(stage("a", "sample.echo", {"value": value}))
        for value in ({"a": 1, "b": [2.5]}, {"b": [2.5], "a": 1})
    )
    again = msgspec.structs.replace(again, request_id=first.request_id)
    _, told = await helpers.ask_raw(bus, NAMES.pipeline_request, codec.encode(first))
    packed = {subjects.CONTENT_TYPE: codec.MSGPACK}
    data = codec.encode(again, codec.MSGPACK)
    reply = await bus.request(NAMES.pipeline_request, data, timeout=10, headers=packed)
    second = msgspec.msgpack.decode(reply.data)
    assert (second["run_id"], second["duplicate"]) == (told["run_id"], True)


async def test_a_template_may_design_another_pipeline_by_now_and_is_the_same_run(askers, bus):
    request = templated(ask_for())
    run_id = subjects.run_id_for(request.requester, request.request_id)
    now = service.now()
    accepted = events.RunAccepted(
        at=now,
        run_id=run_id,
        request_id=request.request_id,
        requester=request.requester,
        pipeline=ask_for().pipeline,
        template="tabular",
    )
    commit = events.Commit(run_id, 1, 0, "agent-0", now, "", [accepted])
    await journal.Journal(bus, NAMES).append(run_id, codec.encode(commit), expected=0)
    again = await askers["nobody"].submit(request)
    assert (again.run_id, again.duplicate) == (run_id, True)
    await conflict(askers["nobody"].submit(templated(request, "time-series-forecast")))
    await conflict(askers["ada"].submit(request))


async def test_what_stands_under_an_id_and_cannot_be_read_is_nobodys_run(askers, bus):
    request = ask_for()
    run_id = subjects.run_id_for(request.requester, request.request_id)
    await journal.Journal(bus, NAMES).append(run_id, b"no commit", expected=0)
    for asked in (request, templated(request)):
        assert "cannot be read" in (await conflict(askers["nobody"].submit(asked))).message


async def test_a_request_that_is_left_in_the_queue_again_is_the_same_run(askers, bus):
    request = ask_for()
    heard = await bus.subscribe(NAMES.deadletter)
    await askers["ada"].submit(request)
    for one in (request, request):
        await leave(bus, one, ADA)
    await leave(bus, request, BOB)
    await leave(bus, request)
    await leave(bus, msgspec.structs.replace(request, pipeline=ask_for("b").pipeline), ADA)
    letters = [await heard.next_msg(timeout=helpers.WAIT_S) for _ in range(3)]
    assert [one.headers["Dead-Code"] for one in letters] == ["conflict"] * 3
    assert [one.headers["Dead-Path"] for one in letters] == ["$.request_id"] * 3
    assert [one.headers.get(subjects.SENDER) is None for one in letters] == [False, True, False]
    run_id = subjects.run_id_for(request.requester, request.request_id)
    assert (await helpers.ended(askers["nobody"], run_id)).state == "succeeded"


async def test_of_several_who_ask_at_once_one_has_the_run_and_the_others_are_told(askers):
    request = ask_for()
    asking = [one.submit(request) for one in askers.values() for _ in range(3)]
    results = await asyncio.gather(*asking, return_exceptions=True)
    refused = [one for one in results if isinstance(one, client.Refused)]
    assert {one.problem.code for one in refused} == {"conflict"}
    assert sorted(one.duplicate for one in results if one not in refused) == [False, True, True]
