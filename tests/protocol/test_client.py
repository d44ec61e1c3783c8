"""The client against a real server: requests, refusals, and following without loss."""

from __future__ import annotations

import asyncio
import datetime as dt
import pathlib
import socket
import subprocess
import sys

import nats
import nats.errors
import nats.micro
import pytest
import pytest_asyncio

from protocol import client, cloudevents, codec, commands, events, problems, subjects

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NAMES = subjects.Subjects()


class Server:
    def __init__(self, folder: pathlib.Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        binary = pathlib.Path(sys.executable).parent / "nats-server"
        arguments = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder)]
        self.process = await asyncio.create_subprocess_exec(
            binary, *arguments, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    async def stop(self) -> None:
        self.process.kill()
        await self.process.wait()


@pytest_asyncio.fixture
async def server(tmp_path):
    made = Server(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def bus(server):
    connection = await nats.connect(server.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1)
    stream = connection.jetstream()
    await stream.add_stream(
        name=NAMES.journal_stream, subjects=[NAMES.all_journals], allow_direct=True
    )
    await stream.add_stream(name=NAMES.intake_stream, subjects=[NAMES.pipeline_queue])
    yield connection
    await connection.close()


async def append(bus, number, *facts, run_id="r", announce=True):
    commit = events.Commit(run_id, number, 1, "a", NOW, "", list(facts))
    await bus.jetstream().publish(NAMES.run_journal(run_id), codec.encode(commit))
    if announce:
        for index, event in enumerate(facts):
            headers, body = cloudevents.write(commit, index)
            subject = NAMES.event(run_id, event.scope, cloudevents.token(event))
            await bus.publish(subject, body, headers=headers)


def started(stage):
    return events.StageStarted(at=NOW, stage=stage, attempt=1)


DONE = events.RunSucceeded(at=NOW, duration_s=1.0)
RESUMED = events.RunResumed(at=NOW, by="me", again=["b"])


async def test_a_request_is_accepted_and_a_refusal_carries_its_problem(server, bus):
    async def accept(request):
        asked = codec.decode(request.data, commands.PipelineRequest)
        if asked.template == "bad":
            problem = problems.Problem("unknown_template", "no such template", path="$.template")
            await request.respond_error("400", "refused", data=codec.encode(problem))
            return
        await request.respond(codec.encode(commands.RunAccepted("run-1", asked.request_id)))

    service = await nats.micro.add_service(bus, name=subjects.SERVICE, version="1.0.0")
    await service.add_endpoint(
        name="request", subject=NAMES.pipeline_request, handler=accept, queue_group="q"
    )
    async with client.connect(server.url) as agent:
        accepted = await agent.submit(template="good", request_id="q1")
        assert (accepted.run_id, accepted.request_id) == ("run-1", "q1")
        with pytest.raises(client.Refused) as refused:
            await agent.submit(template="bad")
        assert refused.value.problem.path == "$.template"
    await service.stop()


async def test_without_an_agent_the_client_says_so(server):
    async with client.connect(server.url) as agent:
        with pytest.raises(client.AgentUnavailable):
            await agent.status("r")


async def test_a_request_enqueued_twice_is_stored_once(server, bus):
    request = client.make_request(template="t", request_id="q1", requester="o")
    async with client.connect(server.url) as agent:
        assert await agent.enqueue(request) == await agent.enqueue(request)
    info = await bus.jetstream().stream_info(NAMES.intake_stream)
    assert info.state.messages == 1


async def test_following_reads_the_past_and_then_live_to_the_end(server, bus):
    await append(bus, 1, started("a"))
    async with client.connect(server.url) as agent:
        seen = []
        async for entry in agent.follow("r"):
            seen.append(entry.id)
            if len(seen) == 1:
                await append(bus, 2, started("b"), DONE)
        assert seen == ["r-1-0", "r-2-0", "r-2-1"]


async def test_a_run_that_was_resumed_is_followed_beyond_its_first_end(server, bus):
    await append(bus, 1, DONE)
    await append(bus, 2, RESUMED)
    await append(bus, 3, started("b"), DONE)
    async with client.connect(server.url) as agent:
        seen = [entry.id async for entry in agent.follow("r")]
    assert seen == ["r-1-0", "r-2-0", "r-3-0", "r-3-1"]


async def test_following_misses_nothing_when_the_server_dies(server, bus):
    back = asyncio.Event()

    async def reconnected():
        back.set()

    bus._reconnected_cb = reconnected
    await append(bus, 1, started("a"))
    async with client.connect(server.url) as agent:
        seen = []
        async for entry in agent.follow("r"):
            seen.append(entry.id)
            if len(seen) == 1:
                await server.stop()
                await server.start()
                await asyncio.wait_for(back.wait(), 10)
                await append(bus, 2, started("b"), announce=False)
                await append(bus, 3, DONE, announce=False)
        assert seen == ["r-1-0", "r-2-0", "r-3-0"]


async def test_tailing_gives_only_what_is_wanted(server, bus):
    await append(bus, 1, started("a"), started("b"))
    await append(bus, 1, started("b"), DONE, run_id="other")
    async with client.connect(server.url) as agent:
        entries = agent.tail(stage="b", kind="started", from_start=True)
        seen = [(await anext(entries)).id for _ in range(2)]
        await entries.aclose()
    assert seen == ["r-1-1", "other-1-0"]


async def test_an_announced_event_is_read_back_from_its_headers(bus):
    heard = await bus.subscribe(NAMES.all_events)
    await append(bus, 7, started("a"))
    message = await heard.next_msg(timeout=5)
    announced = cloudevents.read(message.headers, message.data)
    assert (announced.id, announced.run_id, announced.event) == ("r-7-0", "r", started("a"))
    assert message.subject == NAMES.event("r", "a", "started")


def test_importing_the_client_is_fast_and_light():
    program = (
        "import time, sys; t = time.perf_counter(); import protocol.client\n"
        "print(time.perf_counter() - t)\n"
        "heavy = {'ray', 'torch', 'sklearn', 'mlflow', 'pandas', 'numpy', 'pyarrow', 'agent'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    times = [
        float(
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout
        )
        for _ in range(3)
    ]
    assert min(times) < 0.3
