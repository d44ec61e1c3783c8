"""The queue of requests while its broker stores nothing, or is frozen: nothing is put aside."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import pytest

from agent import tasks
from agent.bus import deadletter, intake, journal, streams
from protocol import client, subjects
from tests.service import helpers
from tests.service.helpers import stage

NAMES = subjects.Subjects()


class Accepting:
    """Accepts requests, but first fails in these ways."""

    def __init__(self, *failures):
        self._failures = list(failures)
        self.done = asyncio.Event()

    async def __call__(self, _request, _caller):
        if self._failures:
            raise self._failures.pop(0)
        self.done.set()


@pytest.fixture
async def ask(nats_url):
    async with client.connect(nats_url) as one:
        await streams.ensure(one.connection.jetstream(), NAMES)
        yield one


@contextlib.asynccontextmanager
async def taking(ask, accept):
    dead = deadletter.DeadLetters(ask.connection, NAMES)
    serving = asyncio.create_task(
        intake.Intake(ask.connection, NAMES, accept, dead, max_bytes=10_000).serve()
    )
    try:
        yield
    finally:
        await tasks.end(serving)


async def check(ask, accept):
    """Wait until a request is accepted, and taken off the queue; see that none was put aside."""
    js = ask.connection.jetstream()
    async with asyncio.timeout(helpers.WAIT_S):
        await accept.done.wait()
        while (await js.stream_info(NAMES.intake_stream)).state.messages:  # noqa: ASYNC110 - the broker
            await asyncio.sleep(0.02)
    assert (await js.stream_info(NAMES.deadletter_stream)).state.messages == 0


async def test_a_queued_request_waits_until_it_can_be_stored(ask):
    accept = Accepting(journal.Unavailable("no room"), TimeoutError())
    async with taking(ask, accept):
        await ask.enqueue(helpers.request(stage("a", "sample.noop")))
        await check(ask, accept)


async def test_an_intake_that_begins_while_its_broker_is_frozen_takes_requests_after(
    ask, embedded, capsys
):
    accept = Accepting()
    await ask.enqueue(helpers.request(stage("a", "sample.noop")))
    embedded._process.send_signal(signal.SIGSTOP)
    try:
        async with taking(ask, accept):
            await helpers.wait_until(lambda: "intake.waits" in capsys.readouterr().out)
            embedded._process.send_signal(signal.SIGCONT)
            await check(ask, accept)
    finally:
        embedded._process.send_signal(signal.SIGCONT)
