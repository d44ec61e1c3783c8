"""The micro service alone: what its streams do when callers leave, press, or the agent stops."""

from __future__ import annotations

import asyncio
import contextlib
import json

import nats
import pytest
from synadia_ai import agents

from agent import service
from agent.prompting import convention, door
from protocol import codec, problems
from tests.prompting.helpers import heard, questions, refused, replies, texts
from tests.service import helpers

PLACE = convention.Place("tester", "one")
SUBJECT = PLACE.subject("prompt")


class Answers:
    """Answers prompts as they ask, and notes what becomes of each."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.noted: list[str] = []

    async def __call__(self, asked, caller, stream):  # noqa: ARG002 - the door gives it
        self.noted.append(f"{asked.prompt} began")
        try:
            await self._answer(asked.prompt, stream)
        except asyncio.CancelledError:
            self.noted.append(f"{asked.prompt} cancelled")
            raise
        self.noted.append(f"{asked.prompt} ended")

    async def _answer(self, prompt, stream):
        match prompt:
            case "wait":
                await stream.say("waiting")
                await self.go.wait()
                await stream.say("done")
            case "ask":
                answer = await stream.ask("well?")
                await stream.say(answer.decode())
            case "break":
                raise RuntimeError("a secret")
            case "long":
                await stream.say("ä" * 100_000)
            case "show":
                large = problems.Problem("internal", "x" * 2_000_000)
                await stream.show("see", "large.json", large)


@pytest.fixture
def answers():
    return Answers()


async def nobody(_, caller):
    """Take every caller for nobody in particular."""
    return caller


@contextlib.asynccontextmanager
async def opened(nc, answers, **changes):
    """Serve a door while the context lasts."""
    known = {
        "identify": nobody,
        "version": "1.2.3",
        "clock": service.now,
        "max_bytes": 4096,
        "keep_alive_s": 0.1,
    }
    one = door.Door(nc, PLACE, answers, **(known | changes))
    await one.open()
    try:
        yield one
    finally:
        await one.close()


@pytest.fixture
async def served(nc, answers):
    async with opened(nc, answers) as one:
        yield one


@pytest.fixture
async def caller(nats_url, served):  # noqa: ARG001 - there must be something to find
    """Give a caller's connection, its view of the bus, and the agent that it found."""
    connection = await nats.connect(nats_url)
    view = agents.Agents(nc=connection)
    (found,) = await view.discover()
    yield connection, view, found
    if not connection.is_closed:
        await view.close()
        await connection.close()


async def first(stream):
    """Hear a stream until something is said."""
    async with asyncio.timeout(helpers.WAIT_S):
        async for chunk in stream:
            if isinstance(chunk, agents.ResponseChunk):
                return chunk.text
    raise AssertionError("nothing was said")


async def test_its_heartbeats_show_callers_that_it_lives(nats_url, nc, answers):
    connection = await nats.connect(nats_url)
    view = agents.Agents(nc=connection)
    await view.start_tracking()
    await connection.flush()
    async with opened(nc, answers) as one:
        instance = one._service.id
        seen = await helpers.wait_until(lambda: view.liveness(instance))
    assert seen.is_online
    await connection.close()


async def test_a_silent_answer_is_kept_alive(caller, answers):
    _, _, found = caller
    chunks = []
    async with asyncio.timeout(helpers.WAIT_S):
        async for chunk in found.prompt("wait", timeout=2.0):
            chunks.append(chunk)
            if len(chunks) == 8:
                answers.go.set()
    assert texts(chunks) == ["waiting", "done"]
    assert chunks.count(agents.StatusChunk(status="ack")) > 5


async def test_a_caller_whose_connection_is_gone_is_noticed(caller, answers, served):
    connection, _, found = caller
    assert await first(found.prompt("wait")) == "waiting"
    assert served.at_work == 1
    await connection.close()
    await helpers.wait_until(lambda: served.at_work == 0)
    assert answers.noted == ["wait began", "wait cancelled"]


async def test_a_question_is_answered_in_the_stream(caller):
    _, _, found = caller
    chunks = await heard(found, "ask", ["fine"])
    assert questions(chunks) == ["well?"]
    assert chunks[1].reply_subject.startswith("_INBOX.agents.")
    assert texts(chunks) == ["fine"]


async def test_a_stopping_agent_says_so_and_ends_its_streams(caller, answers, served):
    _, _, found = caller
    several = [found.prompt(text) for text in ("wait", "wait", "ask")]
    hearing = [asyncio.create_task(_all(stream)) for stream in several]
    await helpers.wait_until(lambda: len(answers.noted) == 3)
    await served.close()
    for chunks in await asyncio.gather(*hearing):
        assert texts(chunks)[-1] == door.STOPPING
    assert served.at_work == 0
    assert sorted(answers.noted[3:]) == ["ask cancelled", "wait cancelled", "wait cancelled"]
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not names & {"prompt", "answer", "keep-alive", "heartbeats"}


async def _all(stream):
    async with asyncio.timeout(helpers.WAIT_S):
        return [chunk async for chunk in stream]


async def test_a_stream_that_is_too_old_is_ended(nats_url, nc, answers):
    connection = await nats.connect(nats_url)
    async with opened(nc, answers, longest_s=0.2) as one:
        (found,) = await agents.Agents(nc=connection).discover()
        assert texts(await heard(found, "wait")) == ["waiting", door.LONG_ENOUGH]
        await helpers.wait_until(lambda: one.at_work == 0)
    await connection.close()


async def test_a_stopped_agent_is_found_no_more(caller, served):
    _, view, _ = caller
    await served.close()
    assert await view.discover() == []


async def test_what_breaks_is_told_without_what_broke(caller):
    _, _, found = caller
    said, error = await refused(found, "break")
    assert error == "service error 500: internal: the agent could not do it"
    assert "secret" not in said + error


async def test_too_large_a_prompt_is_refused(caller):
    connection, _, found = caller
    with pytest.raises(agents.PayloadTooLargeError):
        found.prompt("x" * 5000)
    *_, failed, last = await replies(connection, SUBJECT, b"x" * 5000)
    assert failed.headers["Nats-Service-Error-Code"] == "413"
    assert codec.decode(failed.data, problems.Problem).code == "payload_too_large"
    assert (last.data, last.headers) == (b"", None)


async def test_more_prompts_than_it_serves_are_refused_at_once(nats_url, nc, answers):
    connection = await nats.connect(nats_url)
    async with opened(nc, answers, most_prompts=2):
        (found,) = await agents.Agents(nc=connection).discover()
        several = [asyncio.create_task(_all(found.prompt("wait"))) for _ in range(2)]
        await helpers.wait_until(lambda: len(answers.noted) == 2)
        _, error = await refused(found, "wait")
        assert error.startswith("service error 429: overloaded")
        answers.go.set()
        assert [texts(chunks)[-1] for chunks in await asyncio.gather(*several)] == ["done", "done"]
        assert texts(await heard(found, "wait")) == ["waiting", "done"]
    await connection.close()


async def test_what_is_too_long_for_a_message_is_shortened(caller):
    _, _, found = caller
    (text,) = texts(await heard(found, "long"))
    assert text.endswith("ä…")
    (shown,) = [c for c in await heard(found, "show") if isinstance(c, agents.ResponseChunk)]
    assert shown.attachments is None
    assert shown.text.startswith("see\n")


async def test_a_prompt_that_wants_no_reply_is_ignored(caller, answers):
    connection, _, found = caller
    await connection.publish(SUBJECT, b"wait")
    await heard(found, "nothing")
    assert answers.noted == ["nothing began", "nothing ended"]


async def test_status_answers_a_heartbeat(caller):
    connection, _, _ = caller
    reply = await connection.request(PLACE.subject("status"), b"")
    told = json.loads(reply.data)
    assert told["ts"].endswith("Z")
    assert (told["agent"], told["owner"], told["session"]) == ("mlpm", "tester", "one")


@pytest.mark.parametrize(
    ("prefix", "owner"), [("codeguardian", "codeguardian"), ("Team.ml_1", "team-ml_1")]
)
def test_an_owner_is_made_of_the_prefix(prefix, owner):
    assert convention.owner_of(prefix) == owner
    assert agents.AgentSubject.new("mlpm", owner, "default").owner == owner
