"""What is stored of a run, what is announced of it, and what is answered about it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from protocol import chain, client, cloudevents, codec, commands, events, subjects
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Limited:
    """Lets the journal take nothing more while the context lasts: as a full disk would."""

    def __init__(self, stream, name) -> None:
        self._stream, self._name = stream, name

    async def __aenter__(self):
        info = await self._stream.stream_info(self._name)
        self._before = info.config
        await self._stream.update_stream(info.config, discard="new", max_msgs=info.state.messages)

    async def __aexit__(self, *_):
        await self._stream.update_stream(self._before, discard="old", max_msgs=-1)


@pytest.fixture
def limited(bus):
    return Limited(bus.jetstream(), subjects.Subjects().journal_stream)


async def test_an_accepted_request_is_in_the_journal_when_the_answer_comes(ask):
    accepted = await ask.submit(helpers.request(stage("a", "sample.noop")))
    raw, (first, *_) = await helpers.commits(ask, accepted.run_id)
    assert raw
    assert isinstance(first.events[0], events.RunAccepted)
    assert first.events[0].request_id == accepted.request_id


async def test_a_request_that_cannot_be_stored_is_not_accepted_and_can_be_sent_again(ask, limited):
    request = helpers.request(stage("a", "sample.noop"))
    async with limited:
        with pytest.raises(client.ClientError) as refused:
            await ask.submit(request)
        assert refused.value.problem.retryable
    accepted = await ask.submit(request)
    assert not accepted.duplicate
    assert (await helpers.ended(ask, accepted.run_id)).state == "succeeded"


async def test_nothing_is_announced_that_is_not_stored(ask, bus, limited, trace, tmp_path):
    go = tmp_path / "go"
    held = stage("a", "service.work", {"trace": str(trace), "until": str(go)})
    run_id = await helpers.submit(ask, held, stage("b", "sample.noop", needs=["a"]))
    await helpers.wait_line(trace, "began")
    await helpers.wait_event(ask, run_id, events.StageStarted, "a")
    heard = await bus.subscribe(ask.names.run_events(run_id))
    async with limited:
        go.touch()
        await helpers.wait_line(trace, "ended")
        with pytest.raises(TimeoutError):
            await heard.next_msg(timeout=1.0)
    first = await heard.next_msg(timeout=helpers.WAIT_S)
    assert first.subject == ask.names.event(run_id, "a", "succeeded")
    assert (await helpers.ended(ask, run_id)).state == "succeeded"


async def test_announced_events_are_cloudevents_with_the_requests_trace(ask, bus):
    request = helpers.request(stage("a", "service.tell"))
    run_id = subjects.run_id_for(request.requester, request.request_id)
    heard = await bus.subscribe(ask.names.run_events(run_id))
    headers = {"traceparent": TRACE, subjects.CONTENT_TYPE: codec.JSON}
    await bus.request(ask.names.pipeline_request, codec.encode(request), headers=headers)
    stored = [entry async for entry in ask.follow(run_id)]
    announced = []
    while len(announced) < len(stored):
        announced.append(await heard.next_msg(timeout=5))
    for message, entry in zip(announced, stored, strict=True):
        read = cloudevents.read(message.headers, message.data)
        assert (read.id, read.event) == (entry.id, entry.event)
        assert message.headers["traceparent"] == TRACE
        assert message.headers["ce-specversion"] == "1.0"
        assert message.headers["ce-subject"] == f"{run_id}/{entry.event.scope}"


async def test_the_trace_reaches_the_stage(agent, ask, bus):
    for sent, given in ((TRACE, TRACE), ("no trace", None), ("0" * 100_000, None), (None, None)):
        request = helpers.request(stage("a", "service.tell"))
        headers = {"traceparent": sent} if sent else None
        await bus.request(ask.names.pipeline_request, codec.encode(request), headers=headers)
        run_id = subjects.run_id_for(request.requester, request.request_id)
        found = await helpers.ended(ask, run_id)
        told = agent.store.get(found.stages[0].outputs["report"]).data
        assert told["traceparent"] == given
        assert told["key"]


async def test_the_same_request_is_the_same_run(ask, trace):
    request = helpers.request(stage("a", "service.work", {"trace": str(trace)}))
    both = await asyncio.gather(*(ask.submit(request) for _ in range(5)))
    assert len({one.run_id for one in both}) == 1
    assert sorted(one.duplicate for one in both) == [False, True, True, True, True]
    await helpers.ended(ask, both[0].run_id)
    again = await ask.submit(request)
    assert (again.run_id, again.duplicate) == (both[0].run_id, True)
    assert len(helpers.lines(trace)) == 2


async def test_another_requester_with_the_same_id_has_a_run_of_its_own(ask):
    one = helpers.request(stage("a", "sample.noop"))
    other = msgspec.structs.replace(one, requester="somebody else")
    found = [await ask.submit(request) for request in (one, other)]
    assert found[0].run_id != found[1].run_id
    assert not found[1].duplicate


async def test_a_run_is_followed_from_its_start_or_from_now(ask, trace, tmp_path):
    go = tmp_path / "go"
    held = stage("a", "service.work", {"trace": str(trace), "until": str(go)})
    run_id = await helpers.submit(ask, held, stage("b", "sample.noop", needs=["a"]))
    await helpers.wait_event(ask, run_id, events.StageStarted, "a")
    live = ask.follow(run_id, from_start=False)
    first = asyncio.ensure_future(anext(live))
    await asyncio.wait({first}, timeout=0.2)
    assert not first.done()
    go.touch()
    since = [(await first).event, *[entry.event async for entry in live]]
    every = await helpers.story(ask, run_id)
    assert isinstance(every[0], events.RunAccepted)
    assert isinstance(since[0], events.StageSucceeded)
    assert every[-len(since) :] == since


async def test_the_journal_verifies_and_what_was_changed_or_is_missing_is_found(ask):
    slow = {"seconds": 0.05}  # so that each has a commit of its own
    chained = [stage("s0", "sample.sleep", slow)]
    chained += [stage(f"s{i}", "sample.sleep", slow, needs=[f"s{i - 1}"]) for i in range(1, 4)]
    status, _ = await helpers.done(ask, *chained)
    raw, found = await helpers.commits(ask, status.run_id)
    assert status.commits == len(raw)
    assert chain.verify(raw, status.run_id) == []
    missing = chain.verify([raw[0], *raw[2:]], status.run_id)
    assert {one.fault for one in missing} == {"wrong_number", "wrong_previous"}
    assert {one.position for one in missing} == {2}
    forged = msgspec.structs.replace(found[1], owner="somebody else")
    changed = chain.verify([raw[0], codec.encode(forged), *raw[2:]], status.run_id)
    assert [(one.position, one.fault) for one in changed] == [(3, "wrong_previous")]


async def test_every_event_names_what_caused_it(ask):
    _, told = await helpers.done(ask, stage("a", "sample.noop"), stage("b", "sample.noop"))
    assert all(event.cause for event in told)
    (succeeded,) = helpers.of(told, events.StageSucceeded, "a")
    assert succeeded.cause == "stages/a/attempts/1"


async def test_lists_are_narrowed_and_newest_first(ask):
    good = [(await helpers.done(ask, stage("a", "sample.noop")))[0].run_id for _ in range(2)]
    bad = (await helpers.done(ask, stage("a", "sample.fail")))[0].run_id
    await ask.submit(
        pipeline={"name": "named", "stages": [stage("a", "sample.noop")]}, requester="lister"
    )

    async def listed(**query):
        return [one.run_id for one in (await ask.list(commands.RunListQuery(**query))).runs]

    succeeded = await listed(state="succeeded", pipeline="p")
    assert [run_id for run_id in succeeded if run_id in good] == good[::-1]
    assert bad not in succeeded
    assert bad in await listed(state="failed")
    assert len(await listed(pipeline="named", requester="lister")) == 1
    assert await listed(pipeline="named", requester="nobody") == []
    assert len(await listed(limit=2)) == 2
    line = (await ask.list(commands.RunListQuery(state="failed", limit=1))).runs[0]
    assert line.run_id == bad
    earlier = await listed(before=line.accepted_at)
    assert bad not in earlier
    assert good[0] in earlier
