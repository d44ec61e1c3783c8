"""What a bounded read of a stream brings back from a real nats-server, and what it leaves alone."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import subprocess
import time

import msgspec
import nats
import pytest
from nats.js import api

from agent.bus import server
from stages import kit, registry, sources
from stages.ingest import guard, jetstream, stream, text
from tests.stages.ingest import postgres


@pytest.fixture
async def js(nats_url):
    client = await nats.connect(nats_url)
    found = client.jetstream()
    await found.add_stream(name="ORDERS", subjects=["orders.>"], allow_direct=True)
    yield found
    await client.close()


@pytest.fixture
def read(nats_url, tmp_path):
    async def reading(subject="orders.>", cancelled=lambda: False, limit=2**30, **params):
        stage = stage_of(subject, **params)
        context = context_of(nats_url, tmp_path, cancelled=cancelled, max_input_bytes=limit)
        return await asyncio.to_thread(stage.run, context)

    return reading


@pytest.fixture
def fingerprint(nats_url, tmp_path):
    async def telling(subject="orders.>", **params):
        stage = stage_of(subject, **params)
        return await asyncio.to_thread(stage.fingerprint, context_of(nats_url, tmp_path))

    return telling


def stage_of(subject="orders.>", **params):
    return msgspec.convert({"subject": subject} | params, stream.Stream)


def context_of(url, folder, *, cancelled=lambda: False, **services):
    known = kit.Services(nats_url=url, **services)
    return kit.Context(workdir=folder, services=known, cancelled=cancelled)


async def publish(js, *bodies, subject="orders.new"):
    for body in bodies:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        ack = await js.publish(subject, data)
    return ack.seq


def numbers(done, name="n"):
    return done.table.arrow[name].to_pylist()


async def times(js, last):
    return [(await js.get_msg("ORDERS", seq)).time for seq in range(1, last + 1)]


def test_it_is_a_stage_with_a_table_and_a_report():
    definition = registry.get("ingest.stream")
    assert [port.name for port in definition.outputs] == ["table", "report"]


async def test_messages_become_rows_in_order_with_the_types_of_their_fields(js, read):
    when = "2026-11-24T10:00:00"
    await publish(js, {"n": 1, "who": "ann", "at": when}, {"n": 2, "x": 0.5}, {"n": 3, "gap": None})
    done = await read()
    assert numbers(done) == [1, 2, 3]
    types = {name: kind for name, kind, _ in done.table.schema()}
    assert types == {
        "n": "int64", "who": "string", "at": "timestamp[s]", "x": "double", "gap": "string",
    }  # fmt: skip
    report = done.report.data
    assert (report["stream"], report["rows"], report["messages"]) == ("ORDERS", 3, 3)
    assert (report["first_sequence"], report["last_sequence"]) == (1, 3)


async def test_metadata_says_where_each_row_came_from(js, read):
    await publish(js, b'{"n": 1}\n{"n": 2}\n', subject="orders.a")
    await publish(js, b'{"n": 3}', subject="orders.b")
    done = await read(format="jsonl", add_metadata=True)
    assert numbers(done) == [1, 2, 3]
    assert numbers(done, "_sequence") == [1, 1, 2]
    assert numbers(done, "_subject") == ["orders.a", "orders.a", "orders.b"]
    stored = await times(js, 2)
    for found, expected in zip(numbers(done, "_time"), [stored[0], *stored], strict=True):
        assert abs(found - expected) < dt.timedelta(microseconds=2)


async def test_metadata_hides_no_field_of_the_messages(js, read):
    await publish(js, {"_time": 1})
    with pytest.raises(stream.NameTaken, match="_time"):
        await read(add_metadata=True)


async def test_an_object_over_several_lines_is_one_row(js, read):
    await publish(js, b'{\r\n "n": 1,\n "t": "a\\nb"\n}', b'{"n": 2, "t": ""}')
    done = await read()
    assert done.table.arrow.to_pylist() == [{"n": 1, "t": "a\nb"}, {"n": 2, "t": ""}]


async def test_messagepack_keeps_bytes_times_and_gaps(js, read):
    at = dt.datetime(2026, 11, 24, 10, tzinfo=dt.UTC)
    first = {"n": 1, "raw": b"\x00\xff", "at": at, "deep": {"a": [1]}}
    await publish(js, msgspec.msgpack.encode(first), msgspec.msgpack.encode({"n": 2.5, "new": "x"}))
    done = await read(format="msgpack")
    assert done.table.arrow.to_pylist() == [
        {"n": 1.0, "raw": b"\x00\xff", "at": at, "deep": {"a": [1]}, "new": None},
        {"n": 2.5, "raw": None, "at": None, "deep": None, "new": "x"},
    ]


async def test_a_field_of_several_types_fails_or_is_text_as_asked(js, read):
    await publish(js, {"n": 1}, {"n": "many"})
    with pytest.raises(text.MixedTypes):
        await read()
    assert numbers(await read(mixed="text")) == ["1", "many"]


async def test_only_the_subject_is_read_and_wildcards_stand_for_many(js, read):
    for n, subject in enumerate(["orders.a.x", "orders.b", "orders.a.y", "orders.b"]):
        await publish(js, {"n": n}, subject=subject)
    assert numbers(await read("orders.b")) == [1, 3]
    assert numbers(await read("orders.a.*")) == [0, 2]


async def test_bounds_are_sequences_and_included(js, read):
    await publish(js, *({"n": n} for n in range(1, 11)))
    assert numbers(await read(start=3, end=5)) == [3, 4, 5]
    assert numbers(await read(start=9)) == [9, 10]
    assert numbers(await read(end=2)) == [1, 2]
    assert numbers(await read(start=9, end=99)) == [9, 10]


async def test_bounds_are_times_and_included(js, read):
    await publish(js, *({"n": n} for n in range(1, 6)))
    stored = [f"{when.isoformat()[:26]}Z" for when in await times(js, 5)]
    later = (dt.datetime.fromisoformat(stored[3]) + dt.timedelta(microseconds=1)).isoformat()
    assert numbers(await read(start=stored[1], end=later)) == [2, 3, 4]
    assert numbers(await read(start="2020-01-01T00:00:00+01:00")) == [1, 2, 3, 4, 5]


async def test_reading_stops_at_max_messages_and_says_that_there_are_more(js, read):
    await publish(js, *({"n": n} for n in range(5)))
    some = await read(max_messages=3)
    assert numbers(some) == [0, 1, 2]
    assert some.report.data["truncated"]
    whole = await read(max_messages=5)
    assert len(numbers(whole)) == 5
    assert not whole.report.data["truncated"]


async def test_no_more_bytes_are_read_than_a_source_may_have(js, read):
    await publish(js, *({"n": "x" * 100} for _ in range(20)))
    with pytest.raises(stream.TooMuch):
        await read(limit=1000)


async def test_names_without_end_do_not_fill_memory(js, read):
    for kind, encode in (("json", msgspec.json.encode), ("msgpack", msgspec.msgpack.encode)):
        await publish(js, *(encode({f"n{n}": 1}) for n in range(100)), subject=f"orders.{kind}")
        with pytest.raises(sources.TooLarge):
            await read(f"orders.{kind}", format=kind, limit=50_000)


async def test_many_messages_come_each_once_and_in_order(js, read):
    bodies = [msgspec.json.encode({"n": n}) for n in range(1234)]
    await asyncio.gather(*(js.publish("orders.new", body) for body in bodies))
    done = await read(add_metadata=True)
    assert sorted(numbers(done)) == list(range(1234))
    assert numbers(done, "_sequence") == list(range(1, 1235))


async def test_what_comes_while_it_reads_is_left(js, read):
    await publish(js, *({"n": n} for n in range(500)))
    done_with = asyncio.Event()
    busy = asyncio.create_task(keep_publishing(js, done_with), name="publisher")
    done = await read(add_metadata=True)
    at_the_end = (await js.stream_info("ORDERS")).state.last_seq
    done_with.set()
    await busy
    assert numbers(done, "_sequence")[:500] == list(range(1, 501))
    assert len(numbers(done)) < at_the_end


async def keep_publishing(js, done_with):
    while not done_with.is_set():
        await publish(js, {"n": 0})


async def test_deleted_messages_are_not_waited_for(js, read):
    await publish(js, *({"n": n} for n in range(1, 8)))
    for sequence in (1, 4, 7):
        await js.delete_msg("ORDERS", sequence)
    started = time.monotonic()
    assert numbers(await read()) == [2, 3, 5, 6]
    assert numbers(await read(end=4)) == [2, 3]
    assert time.monotonic() - started < 5


async def test_nothing_is_acknowledged_or_taken_and_no_consumer_is_left(js, read):
    await js.add_stream(name="EVENTS", subjects=["events"], retention=api.RetentionPolicy.INTEREST)
    other = await js.pull_subscribe("events", durable="other", stream="EVENTS")
    await publish(js, {"n": 1}, {"n": 2}, subject="events")
    assert numbers(await read("events")) == [1, 2]
    assert [message.data for message in await other.fetch(2)] == [b'{"n":1}', b'{"n":2}']
    assert [info.name for info in await js.consumers_info("EVENTS")] == ["other"]


async def test_a_work_queue_is_refused(js, read):
    await js.add_stream(name="WORK", subjects=["work"], retention=api.RetentionPolicy.WORK_QUEUE)
    await publish(js, {"n": 1}, subject="work")
    with pytest.raises(jetstream.WorkQueue):
        await read("work")
    assert (await js.stream_info("WORK")).state.messages == 1


async def test_a_message_that_is_missing_on_the_way_is_fetched_again(js, nats_url):
    await publish(js, *({"n": n} for n in range(10)))
    async with jetstream.connected(kit.Services(nats_url=nats_url)) as reader:
        lossy = Lossy(reader._js, lost={3, 7})
        reader._js = lossy
        held = await reader.find("orders.>", None)
        found = reader.messages(held, "orders.>", None, lambda: None)
        sequences = [message.metadata.sequence.stream async for message in found]
    assert sequences == list(range(1, 11))
    assert not lossy.lost


class Lossy:
    """A JetStream context that loses some messages once: those after an interrupted connection."""

    def __init__(self, js, lost):
        self._real = js
        self.lost = lost

    def __getattr__(self, name):
        return getattr(self._real, name)

    async def pull_subscribe_bind(self, **where):
        self._subscription = await self._real.pull_subscribe_bind(**where)
        return self

    async def fetch(self, batch, **how):
        found = await self._subscription.fetch(batch, **how)
        kept = [m for m in found if m.metadata.sequence.stream not in self.lost]
        self.lost -= {m.metadata.sequence.stream for m in found[:4]}
        return kept

    async def unsubscribe(self):
        await self._subscription.unsubscribe()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("json", b"[1]"),
        ("json", b'{"n": 1} {"n": 2}'),
        ("json", b""),
        ("json", b'{"n": "\xff"}'),
        ("json", b'{"n": NaN}'),
        ("jsonl", b'{"n": 1}\n{"n"'),
        ("json", b'{"n": ' * 60 + b"1" + b"}" * 60),
        ("msgpack", b'{"n": 1}'),
        ("msgpack", b"\x81\xa1n" * 60 + b"\x01"),
        ("msgpack", msgspec.msgpack.encode({1: 2})),
        ("msgpack", msgspec.msgpack.encode({"n": msgspec.msgpack.Ext(5, b"x")})),
    ],
)
async def test_a_message_of_another_format_fails_or_is_left_out_and_counted(js, read, kind, body):
    encode = msgspec.msgpack.encode if kind == "msgpack" else msgspec.json.encode
    await publish(js, encode({"n": 1}), body, encode({"n": 3}))
    with pytest.raises(stream.Undecodable) as fault:
        await read(format=kind)
    assert fault.value.sequence == 2
    done = await read(format=kind, undecodable="skip", add_metadata=True)
    assert numbers(done) == [1, 3]
    assert numbers(done, "_sequence") == [1, 3]
    assert done.report.data["skipped"] == 1
    assert done.report.data["skipped_sequences"] == [2]


async def test_messages_that_are_all_skipped_or_without_a_field_make_no_table(js, read):
    await publish(js, b"no")
    with pytest.raises(stream.NoMessages, match="1 were skipped"):
        await read(undecodable="skip")
    await publish(js, b"{}", subject="orders.bare")
    with pytest.raises(stream.NoMessages, match="has a field"):
        await read("orders.bare")


async def test_a_subject_or_stream_that_is_not_there_is_told_with_what_is(js, read):
    with pytest.raises(jetstream.NoStream, match="keeps the subject 'nope'") as nothing:
        await read("nope")
    assert "ORDERS" in nothing.value.hint
    with pytest.raises(jetstream.NoStream) as misspelt:
        await read(stream="ORDER")
    assert misspelt.value.hint == "did you mean 'ORDERS'?"
    assert misspelt.value.path == "$.stream"
    with pytest.raises(stream.NoMessages, match="at all") as silent:
        await read("orders.silent")
    assert "orders.>" in silent.value.hint
    assert js is not None


async def test_a_subject_of_several_streams_asks_for_one_of_them(js, read):
    await js.add_stream(name="BILLS", subjects=["bills.>"])
    await publish(js, {"n": 1}, subject="bills.new")
    with pytest.raises(jetstream.ManyStreams, match="BILLS, ORDERS"):
        await read(">")
    assert numbers(await read(">", stream="BILLS")) == [1]


async def test_nothing_between_the_bounds_is_told(js, read):
    await publish(js, {"n": 1}, {"n": 2})
    started = time.monotonic()
    for bounds in ({"start": 3}, {"end": "2020-01-01T00:00:00Z"}):
        with pytest.raises(stream.NoMessages, match="between the bounds"):
            await read(**bounds)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("start", "end"), [(3, 2), ("2026-01-02T00:00:00Z", "2026-01-01T23:59:59-00:00")]
)
async def test_a_start_after_the_end_is_a_fault(js, read, start, end):
    await publish(js, {"n": 1})
    with pytest.raises(stream.StartAfterEnd) as fault:
        await read(start=start, end=end)
    assert fault.value.path == "$.start"


@pytest.mark.parametrize(
    "bounds", [{"start": 0}, {"start": "yesterday"}, {"end": "beginning"}, {"end": "2026-01-01"}]
)
def test_a_bound_of_another_form_is_refused_with_the_parameters(bounds):
    with pytest.raises(msgspec.ValidationError):
        stage_of(**bounds)


async def test_a_time_that_there_is_not_is_a_fault(js, read):
    await publish(js, {"n": 1})
    with pytest.raises(stream.NotATime) as fault:
        await read(end="2026-13-41T00:00:00Z")
    assert fault.value.path == "$.end"


async def test_a_server_that_is_away_is_a_passing_fault_and_no_fingerprint(tmp_path):
    context = context_of(f"nats://127.0.0.1:{postgres.free_port()}", tmp_path)
    with pytest.raises(jetstream.Away) as fault:
        await asyncio.to_thread(stage_of().run, context)
    assert fault.value.retryable
    assert await asyncio.to_thread(stage_of().fingerprint, context) is None


async def test_a_server_that_is_not_configured_is_told(tmp_path):
    with pytest.raises(stream.NoServer, match="no NATS server"):
        await asyncio.to_thread(stage_of().run, context_of("", tmp_path))


async def test_what_the_server_does_not_permit_is_refused(tmp_path):
    port = postgres.free_port()
    config = tmp_path / "nats.conf"
    config.write_text(f"""
        listen: 127.0.0.1:{port}
        jetstream {{ store_dir: "{tmp_path}/store" }}
        authorization {{ users: [
            {{ user: all, password: x }}
            {{ user: few, password: x, permissions: {{ publish: ["$JS.API.STREAM.NAMES"] }} }}
        ] }}
    """)
    process = subprocess.Popen(  # noqa: ASYNC220 - it only starts
        [server.find(), "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        client = await nats.connect(f"nats://all:x@127.0.0.1:{port}", max_reconnect_attempts=-1,
                                    reconnect_time_wait=0.05, error_cb=quiet)  # fmt: skip
        await client.jetstream().add_stream(name="ORDERS", subjects=["orders.>"])
        await client.close()
        for user in ("few:x@", "few:wrong@", ""):
            context = context_of(f"nats://{user}127.0.0.1:{port}", tmp_path)
            with pytest.raises(jetstream.NotPermitted) as refused:
                await asyncio.to_thread(stage_of().run, context)
            assert refused.value.code == "not_allowed"
    finally:
        process.terminate()
        process.wait()


async def quiet(_):
    """Let a client wait for its server without a word."""


async def test_a_cancellation_ends_the_reading(js, read):
    await publish(js, *({"n": n} for n in range(300)))
    looks = itertools.count()
    with pytest.raises(kit.Cancelled):
        await read(cancelled=lambda: next(looks) > 2)
    assert not await js.consumers_info("ORDERS")


async def test_a_read_has_its_time_and_no_more(js, read):
    await publish(js, *({"n": n} for n in range(2000)))
    with pytest.raises(guard.TookTooLong) as late:
        await read(timeout_s=0.001)
    assert late.value.code == "timeout"


async def test_an_unchanged_stream_has_an_unchanged_fingerprint(js, fingerprint):
    await publish(js, {"n": 1}, {"n": 2}, {"n": 3})
    before = await fingerprint()
    assert before
    assert await fingerprint() == before
    assert not await js.consumers_info("ORDERS")
    await publish(js, {"n": 4})
    assert await fingerprint() != before


async def test_messages_of_other_subjects_or_behind_the_end_do_not_count(js, fingerprint):
    await publish(js, {"n": 1}, {"n": 2}, {"n": 3})
    end = f"{(await times(js, 2))[1].isoformat()[:26]}Z"
    asked = [{"subject": "orders.new"}, {"end": 2}, {"end": end}, {"start": 2, "end": 2}]
    before = [await fingerprint(**each) for each in asked]
    await publish(js, {"n": 4}, subject="orders.other")
    assert [await fingerprint(**each) for each in asked] == before
    await publish(js, {"n": 5})
    assert [await fingerprint(**each) for each in asked[1:]] == before[1:]
    assert await fingerprint(**asked[0]) != before[0]


async def test_a_message_deleted_within_the_bounds_changes_the_fingerprint(js, fingerprint):
    await publish(js, {"n": 1}, {"n": 2}, {"n": 3})
    before = await fingerprint(end=2), await fingerprint()
    await js.delete_msg("ORDERS", 1)
    after = await fingerprint(end=2), await fingerprint()
    assert after[0] != before[0]
    assert after[1] != before[1]


async def test_a_stream_made_anew_has_another_fingerprint(js, fingerprint):
    await publish(js, {"n": 1})
    before = await fingerprint()
    await js.delete_stream("ORDERS")
    await js.add_stream(name="ORDERS", subjects=["orders.>"])
    await publish(js, {"n": 2})
    assert await fingerprint() != before


async def test_a_stream_that_can_not_be_found_has_no_fingerprint(js, fingerprint):
    assert js is not None
    assert await fingerprint("nope") is None
