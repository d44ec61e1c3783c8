"""Requests that are left in the queue: accepted, or kept as dead letters with the reason."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest

from protocol import codec, subjects
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS
NAMES = subjects.Subjects()


@contextlib.asynccontextmanager
async def dead_letters(bus):
    """Give what becomes a dead letter while the context lasts."""
    heard = await bus.subscribe(NAMES.deadletter)
    await bus.flush()
    yield heard
    await heard.unsubscribe()


async def dropped(bus, data, **headers):
    """Leave a message in the queue and give the dead letter it becomes."""
    async with dead_letters(bus) as heard:
        await bus.jetstream().publish(NAMES.pipeline_queue, data, headers=headers or None)
        return await heard.next_msg(timeout=helpers.WAIT_S)


async def test_a_request_left_in_the_queue_is_run(ask):
    run_id = await ask.enqueue(helpers.request(stage("a", "sample.noop")))
    async with asyncio.timeout(helpers.WAIT_S):
        await _known(ask, run_id)
    assert (await helpers.ended(ask, run_id)).state == "succeeded"


async def test_two_requesters_may_use_the_same_request_id(ask):
    asked = helpers.request(stage("a", "sample.noop"))
    others = msgspec.structs.replace(asked, requester="another")
    runs = [await ask.enqueue(one) for one in (asked, others)]
    states = [(await helpers.ended(ask, run)).state for run in runs]
    assert states == ["succeeded", "succeeded"]
    assert len(set(runs)) == 2


async def _known(ask, run_id):
    """Wait until a run is accepted."""
    await anext(ask.tail(run_id=run_id, from_start=True))


async def test_what_cannot_be_read_is_kept_as_it_came(bus):
    letter = await dropped(bus, b"{nonsense", **{"X-From": "me"})
    assert letter.data == b"{nonsense"
    assert letter.headers["Dead-Code"] == "invalid_json"
    assert letter.headers["Dead-Subject"] == NAMES.pipeline_queue
    assert letter.headers["Dead-Reason"]
    assert letter.headers["X-From"] == "me"


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b'{"request_id": "a b", "requester": "me", "template": "x"}', "invalid_field", "$.req"),
        (b'{"request_id": "q", "requester": "me", "template": "x"}', "unknown_template", "$.te"),
        (b'{"request_id": "q", "requester": "me", "tempalte": "x"}', "unknown_field", "$.temp"),
    ],
)
async def test_what_is_refused_is_kept_with_code_and_path(bus, body, code, path):
    letter = await dropped(bus, body)
    assert letter.headers["Dead-Code"] == code
    assert letter.headers["Dead-Path"].startswith(path)


async def test_a_dead_letter_does_not_hold_up_those_behind_it(ask, bus):
    good = helpers.request(stage("a", "sample.noop"))
    async with dead_letters(bus) as heard:
        await bus.jetstream().publish(NAMES.pipeline_queue, b"\xff")
        run_id = await ask.enqueue(good)
        await bus.jetstream().publish(NAMES.pipeline_queue, b"[]")
        found = [await heard.next_msg(timeout=helpers.WAIT_S) for _ in range(2)]
    assert [letter.data for letter in found] == [b"\xff", b"[]"]
    assert (await helpers.ended(ask, run_id)).state == "succeeded"
    info = await bus.jetstream().stream_info(NAMES.intake_stream)
    assert info.state.messages == 0


async def test_a_messagepack_request_may_be_left_in_the_queue(ask, bus):
    asked = helpers.request(stage("a", "sample.noop"))
    headers = {subjects.CONTENT_TYPE: codec.MSGPACK, "Nats-Msg-Id": asked.request_id}
    data = codec.encode(asked, codec.MSGPACK)
    await bus.jetstream().publish(NAMES.pipeline_queue, data, headers=headers)
    run_id = subjects.run_id_for(asked.requester, asked.request_id)
    async with asyncio.timeout(helpers.WAIT_S):
        await _known(ask, run_id)
    assert (await helpers.ended(ask, run_id)).state == "succeeded"


async def test_what_is_as_large_as_the_bus_takes_is_kept_as_far_as_it_fits(ask, bus):
    large = b"[" * (bus.max_payload - 64)
    letter = await dropped(bus, large, **{"X-From": "me"})
    assert letter.headers["Dead-Code"]
    assert letter.headers["Dead-Bytes"] == str(len(large))
    assert large.startswith(letter.data)
    assert len(letter.data) > len(large) * 0.9
    run_id = await ask.enqueue(helpers.request(stage("a", "sample.noop")))
    assert (await helpers.ended(ask, run_id)).state == "succeeded"


async def test_what_a_message_expected_of_its_own_stream_does_not_keep_it_from_the_dead(ask, bus):
    info = await bus.jetstream().stream_info(NAMES.intake_stream)
    expected = {"Nats-Expected-Last-Sequence": str(info.state.last_seq)}
    letter = await dropped(bus, b"{nonsense", **expected)
    assert letter.headers["Dead-Code"] == "invalid_json"
    run_id = await ask.enqueue(helpers.request(stage("a", "sample.noop")))
    assert (await helpers.ended(ask, run_id)).state == "succeeded"
