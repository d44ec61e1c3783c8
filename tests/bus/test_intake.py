"""What is left in the queue of requests, whatever it is: taken, or put aside with the reason."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import urllib.parse

import msgspec
import pytest
from nats.js import api

from agent import tasks
from agent.bus import deadletter, endpoints, intake
from protocol import codec, problems, subjects

LIMIT = 100_000


class World:
    """An intake that accepts requests, or refuses all of them with a problem."""

    def __init__(self, nc, names, letters) -> None:
        self.nc, self.names = nc, names
        self._letters = letters
        self.accepted: list[str] = []
        self.problem: problems.Problem | None = None

    async def accept(self, request, _):
        if self.problem is not None:
            raise endpoints.Refusal(self.problem)
        self.accepted.append(request.request_id)

    async def letter(self):
        return await self._letters.next_msg(timeout=10)

    async def takes(self, request_id):
        async with asyncio.timeout(10):
            while request_id not in self.accepted:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)

    async def still_takes(self):
        """Show that what is left behind all that is taken."""
        await self.nc.jetstream().publish(self.names.pipeline_queue, body(request_id="behind"))
        await self.takes("behind")


@contextlib.asynccontextmanager
async def taking(nc, names):
    letters = await nc.subscribe(names.deadletter)
    made = World(nc, names, letters)
    dead = deadletter.DeadLetters(nc, names)
    one = intake.Intake(nc, names, made.accept, dead, max_bytes=LIMIT)
    serving = asyncio.create_task(one.serve())
    yield made
    await tasks.end(serving)


@pytest.fixture
async def world(nc, names):
    async with taking(nc, names) as made:
        yield made


def body(**changes) -> bytes:
    return msgspec.json.encode({"request_id": "r", "requester": "me", "template": "x"} | changes)


async def send(nats_url, subject, headers: bytes, body: bytes) -> None:
    """Publish bytes that no client would let through."""
    place = urllib.parse.urlsplit(nats_url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    options = {"verbose": False, "headers": True, "auth_token": place.username}
    total = len(headers) + len(body)
    writer.write(
        f"CONNECT {json.dumps(options)}\r\nHPUB {subject} {len(headers)} {total}\r\n".encode()
        + headers
        + body
        + b"\r\nPING\r\n"
    )
    async with asyncio.timeout(10):
        while (line := await reader.readline()) and line != b"PONG\r\n":
            assert not line.startswith(b"-ERR"), line
    writer.close()


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"", {}, "invalid_json"),
        (b"", {"X-From": "me"}, "invalid_json"),
        (b"\x00\xff", {}, "invalid_json"),
        (b"null", {}, "invalid_field"),
        (body(), {subjects.CONTENT_TYPE: "text/xml"}, "invalid_field"),
        (body(), {subjects.CONTENT_TYPE: codec.MSGPACK}, None),
        (gzip.compress(body()), {"Content-Encoding": "gzip"}, "invalid_json"),
        (b" " * (LIMIT + 1), {}, "payload_too_large"),
        (b"[" * (LIMIT - 1), {}, "invalid_json"),
    ],
)
async def test_what_cannot_be_read_is_put_aside_and_the_next_one_taken(world, body, headers, code):
    await world.nc.jetstream().publish(world.names.pipeline_queue, body, headers=headers)
    letter = await world.letter()
    assert code in {letter.headers[deadletter.CODE], None}
    assert letter.data == body
    assert headers.items() <= letter.headers.items()
    await world.still_takes()
    assert (await world.nc.jetstream().stream_info(world.names.intake_stream)).state.messages == 0


@pytest.mark.parametrize(
    "block",
    [
        b"NATS/1.0\r\nno colon at all\r\n\r\n",
        b"NATS/1.0\r\n: no name\r\nA: 1\r\n\r\n",
        b"NATS/1.0\r\nA B: spaces in the name\r\n\r\n",
        b"NATS/1.0\r\nB\xff\xfe: \xff\xfe\r\nC: \xc3(\r\n\r\n",
        b"NATS/1.0\r\nDead-Bytes: 12\r\ndead-code: mine\r\n\r\n",
        b"NATS/1.0\r\nContent-Type: \xff\xff\r\n\r\n",
        b"NATS/1.0\r\nX: " + b"x" * 65_450 + b"\r\n\r\n",
        b"NATS/1.0\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5_900)) + b"\r\n",
        b"NATS/1.0 503 No Responders\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
        b"HTTP/1.1\r\nA: 1\r\n\r\n",
    ],
    ids=lambda block: block[:24].decode(errors="replace").strip(),
)
async def test_no_headers_stop_the_intake(world, nats_url, block):
    await send(nats_url, world.names.pipeline_queue, block, b"{nonsense")
    letter = await world.letter()
    assert letter.data == b"{nonsense"
    assert letter.headers[deadletter.CODE] in {"invalid_json", "invalid_field"}
    assert deadletter.BYTES not in letter.headers
    assert letter.headers[deadletter.SUBJECT] == world.names.pipeline_queue
    assert not any("mine" in value for value in letter.headers.values())
    assert sum(len(k) + len(v) for k, v in letter.headers.items()) < 20_000
    await world.still_takes()


async def test_headers_that_do_not_fit_are_counted(world, nats_url):
    block = b"NATS/1.0\r\nA: 1\r\nX: " + b"x" * 50_000 + b"\r\nB: 2\r\n\r\n"
    await send(nats_url, world.names.pipeline_queue, block, b"{nonsense")
    letter = await world.letter()
    assert (letter.headers["A"], letter.headers["B"]) == ("1", "2")
    assert letter.headers[deadletter.HEADERS] == "1"


async def test_a_full_message_with_many_headers_does_not_cost_the_connection(world, nats_url):
    block = b"NATS/1.0\r\nX: " + b"x" * 65_450 + b"\r\n\r\n"
    whole = b"[" * (world.nc.max_payload - len(block))
    await send(nats_url, world.names.pipeline_queue, block, whole)
    letter = await world.letter()
    assert letter.headers[deadletter.CODE] == "payload_too_large"
    assert whole.startswith(letter.data)
    await world.still_takes()
    assert world.nc.stats["reconnects"] == 0  # a server hangs up on what is too large for it


async def test_a_reason_in_any_script_and_of_any_length_becomes_a_header(world):
    world.problem = problems.Problem("denied", "ein\r\nBöse: \x1b[2J\ud800 " + "x" * 5_000)
    await world.nc.jetstream().publish(world.names.pipeline_queue, body())
    reason = (await world.letter()).headers[deadletter.REASON]
    assert reason.startswith("ein  Böse:  [2J? x")
    assert len(reason) == 1_000


async def test_what_may_be_accepted_later_is_tried_again_and_not_put_aside(world):
    js, names = world.nc.jetstream(), world.names
    world.problem = problems.Problem("unavailable", "not now", retryable=True)
    await js.publish(names.pipeline_queue, body(request_id="later"))

    async def deliveries():
        return (await js.consumer_info(names.intake_stream, "intake")).delivered.consumer_seq

    async with asyncio.timeout(10):
        while await deliveries() < 2:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)
    world.problem = None
    await world.takes("later")
    assert (await js.stream_info(names.deadletter_stream)).state.messages == 0


async def test_what_ends_whoever_takes_it_is_put_aside_after_ten_times(nc, names):
    js = nc.jetstream()
    config = api.ConsumerConfig(durable_name=names.intake_consumer, ack_wait=30)
    await js.add_consumer(names.intake_stream, config, ack_policy=api.AckPolicy.EXPLICIT)
    pull = await js.pull_subscribe_bind(names.intake_consumer, names.intake_stream)
    await js.publish(names.pipeline_queue, body(request_id="deadly"))
    for _ in range(10):
        await (await pull.fetch(1, timeout=5))[0].nak()
    await pull.unsubscribe()
    async with taking(nc, names) as world:
        letter = await world.letter()
        assert letter.headers[deadletter.CODE] == "worker_lost"
        assert "10 times" in letter.headers[deadletter.REASON]
        assert not world.accepted
        await world.still_takes()


async def test_what_takes_long_to_accept_is_not_given_to_another(nc, names):
    begun, done = [], asyncio.Event()

    async def accept(request, _):
        begun.append(request.request_id)
        await done.wait()

    dead = deadletter.DeadLetters(nc, names)
    two = [intake.Intake(nc, names, accept, dead, max_bytes=LIMIT, lease_s=0.6) for _ in range(2)]
    told = await nc.subscribe(f"$JS.ACK.{names.intake_stream}.>")
    serving = [asyncio.create_task(one.serve()) for one in two]
    await nc.jetstream().publish(names.pipeline_queue, body(request_id="slow"))
    for _ in range(7):  # two leases and more
        assert (await told.next_msg(timeout=10)).data == b"+WPI"
    done.set()
    assert (await told.next_msg(timeout=10)).data in {b"", b"+ACK"}
    await tasks.end(*serving)
    assert begun == ["slow"]
