"""The broker of the simulation does what a real one does, where ownership depends on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket

import nats
import nats.errors
import nats.js.errors
import pytest

from agent import children, config
from agent.bus import connection, journal, server, streams, tickets
from protocol import subjects
from tests.ownership import memory, wires, world

NAMES = subjects.Subjects()
LEASE_S = 0.6
SERVERS = 3


def appends(seed):
    """Give appends to two journals by writers that are up to date, stale, or repeat themselves."""
    chance, made = random.Random(seed), []
    for number in range(60):
        subject = NAMES.run_journal(chance.choice("ab"))
        expected = chance.choice([0, number // 2, number // 2 + 1, number])
        headers = {
            memory.EXPECTED: str(expected),
            memory.MESSAGE_ID: str(chance.randrange(number + 1)),
        }
        made.append(chance.choice(made) if made and chance.random() < 0.3 else (subject, headers))
    return made


def told(answer):
    """Take what ownership depends on out of an answer."""
    error = answer.get("error", {})
    return answer.get("seq") or None, bool(answer.get("duplicate")), error.get("err_code")


@pytest.fixture
async def nc(nats_url):
    client = await connection.connect(nats_url, config.Nats(), "test")
    await streams.ensure(client.jetstream(), NAMES)
    yield client
    await client.close()


@pytest.mark.parametrize("seed", range(3))
async def test_appends_are_taken_and_refused_as_by_a_server(nc, seed):
    prefix = NAMES.run_journal("x")[:-1]
    twin = memory.Stream(NAMES.journal_stream, prefix, single=False, id_first=False)
    real, own = [], []
    for subject, headers in appends(seed):
        answer = await nc.request(subject, b"x", headers=dict(headers), timeout=5)
        real.append(told(json.loads(answer.data)))
        own.append(told(twin.add(subject, b"x", headers)))
    assert real == own


async def story(client):
    """Deliver a ticket three times and acknowledge it late; give what can be seen of it."""
    queue = tickets.Tickets(client, NAMES, LEASE_S)
    seen = [await queue.put("r1", 5, "a"), await queue.put("r1", 5, "b")]

    async def pull():
        message = await queue._pull(5, wait_s=0)
        seen.append(message and message.metadata.num_delivered)
        return message

    first = await pull()
    await pull()
    await asyncio.sleep(LEASE_S * 1.2)
    second = await pull()
    await asyncio.sleep(LEASE_S * 0.7)
    await client.request(first.reply, b"+WPI", timeout=5)
    await asyncio.sleep(LEASE_S * 0.7)
    await pull()  # the renewal of the first delivery holds for the second
    await second.nak()
    await client.request(first.reply, b"+WPI", timeout=5)  # the broker has seen both by now
    await pull()
    await first.ack_sync(timeout=5)
    seen.append(await queue.put("r1", 5, "c"))
    return seen


def simulated(scene):
    """Play a scene on the broker in memory."""
    played = world.World(world.Script(slow=False))
    for consumer in played.broker.consumers.values():
        consumer._wait_s = LEASE_S
    loop = played.works.loop()
    client = wires.Client(loop, played.broker, played.wire())
    task = loop.create_task(scene(client))
    played.works.run(60.0)
    found = task.result()
    played.works.remove(loop)
    played.works.remove(played.broker.loop)
    return found


async def test_a_ticket_is_delivered_again_and_acknowledged_late_as_by_a_server(nc):
    queue = tickets.Tickets(nc, NAMES, LEASE_S)
    await queue.open()
    seen = await story(nc)
    assert await asyncio.to_thread(simulated, story) == seen
    assert (seen[:2], seen[2:5], seen[-1]) == ([True, False], [1, None, 2], True)


def free_ports(count):
    with contextlib.ExitStack() as held:
        found = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


@pytest.fixture
async def cluster(tmp_path):
    """Give the URL of a cluster of three servers."""
    ports = free_ports(2 * SERVERS)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[SERVERS:])
    async with contextlib.AsyncExitStack() as stack:
        for number in range(SERVERS):
            file = tmp_path / f"{number}.conf"
            file.write_text(
                f'listen: "127.0.0.1:{ports[number]}"\nserver_name: s{number}\n'
                f'jetstream {{ store_dir: "{tmp_path / str(number)}" }}\n'
                f'cluster {{ name: c, listen: "127.0.0.1:{ports[SERVERS + number]}", '
                f"routes: [{routes}] }}\n"
            )
            command = [server.find(), "-c", str(file)]
            one = await children.start(command, tmp_path / f"{number}.log")
            stack.push_async_callback(children.stop, one)
        yield f"nats://127.0.0.1:{ports[0]}"


async def replicated(url):
    """Wait until a cluster has a leader and replicated streams."""
    async with asyncio.timeout(30):
        while True:
            client = await connection.connect(url, config.Nats(), "test")
            try:
                await streams.ensure(client.jetstream(), NAMES, SERVERS)
            except (nats.errors.Error, nats.js.errors.Error):
                await client.close()
                await asyncio.sleep(0.2)  # it has no leader yet
            else:
                return client


@pytest.mark.slow
async def test_in_a_cluster_two_owners_of_one_epoch_are_not_both_told_that_they_own_it(cluster):
    client = await replicated(cluster)
    log = journal.Journal(client, NAMES)
    first = await log.append("r1", b"accepted", expected=0)
    taken = await log.append("r1", b"owner a, epoch 1", expected=first)
    with pytest.raises(journal.Fenced):
        await log.append("r1", b"owner b, epoch 1", expected=first)
    assert await log.append("r1", b"owner a, epoch 1", expected=first) == taken
    subject = NAMES.run_journal("r1")
    headers = {memory.EXPECTED: str(first), memory.MESSAGE_ID: "same"}
    await client.request(subject, b"x", headers=headers | {memory.EXPECTED: str(taken)})
    answer = await client.request(subject, b"y", headers=headers)
    assert told(json.loads(answer.data))[1]  # by an id that both have, both would be
    await client.close()
