from __future__ import annotations

import asyncio
import signal

import pytest

from agent import config
from agent.bus import connection, journal, server, streams


async def test_commits_come_back_in_order_and_whole(nc, names):
    log = journal.Journal(nc, names)
    last = 0
    for number in range(100):
        last = await log.append("r1", b"commit %d" % number, expected=last)
        await log.append(f"other{number}", b"x", expected=0)
    found = await log.read("r1")
    assert [data for _, data in found] == [b"commit %d" % number for number in range(100)]
    assert found[-1][0] == last


async def test_a_run_without_commits_reads_as_nothing(nc, names):
    assert await journal.Journal(nc, names).read("nobody") == []


async def test_a_stale_owner_is_refused_at_its_first_commit(nc, names):
    old, new = journal.Journal(nc, names), journal.Journal(nc, names)
    first = await old.append("r1", b"accepted", expected=0)
    await new.append("r1", b"recovered", expected=first)
    with pytest.raises(journal.Fenced) as fenced:
        await old.append("r1", b"late", expected=first)
    assert fenced.value.run_id == "r1"
    assert [data for _, data in await new.read("r1")] == [b"accepted", b"recovered"]


async def test_an_append_whose_ack_was_lost_can_be_repeated(nc, names):
    log = journal.Journal(nc, names)
    first = await log.append("r1", b"accepted", expected=0)
    again = await log.append("r1", b"accepted", expected=0)
    assert again == first
    assert len(await log.read("r1")) == 1


async def test_a_server_that_comes_back_has_every_acknowledged_commit(tmp_path, names):
    running = server.EmbeddedServer(tmp_path / "nats")
    async with running:
        port = int(running.url.rsplit(":", 1)[1])
        client = await connection.connect(running.url, config.Nats(), "test")
        await streams.ensure(client.jetstream(), names)
        log = journal.Journal(client, names)
        first = await log.append("r1", b"accepted", expected=0)
        running._process.send_signal(signal.SIGKILL)
        await running._process.wait()
    async with server.EmbeddedServer(tmp_path / "nats", port):
        second = await _until_stored(log, "r1", b"started", first)
        assert [seq for seq, _ in await log.read("r1")] == [first, second]
        await client.close()


async def _until_stored(log, run_id, data, expected):
    for _ in range(100):
        try:
            return await log.append(run_id, data, expected=expected)
        except journal.Unavailable:
            await asyncio.sleep(0.1)
    raise AssertionError


async def test_a_watcher_sees_what_was_and_what_comes(nc, names):
    log = journal.Journal(nc, names)
    seen: list[tuple[str, bytes]] = []
    came = asyncio.Event()
    ready = asyncio.Event()

    async def take(run_id, data):
        seen.append((run_id, data))
        if data == b"new":
            came.set()

    await log.append("r1", b"old", expected=0)
    watching = asyncio.create_task(log.watch(take, ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    await log.append("r2", b"new", expected=0)
    await asyncio.wait_for(came.wait(), 5)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert seen == [("r1", b"old"), ("r2", b"new")]
