"""Owns what the tests of the swarm share: an agent's taking half, assignments, their reports."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import pathlib

import msgspec

from agent import catalog, config, tasks
from agent.bus import journal
from agent.execution import cluster, in_agent
from agent.swarm import member, reports
from protocol import codec, swarm
from stages import kit

MODULES = (
    "tests.execution.sample_stages",
    "tests.service.sample_stages",
    "tests.swarm.sample_stages",
)
WAIT_S = 20.0
LEASE_S = 1.0
_numbers = itertools.count(1)


def now():
    return dt.datetime.now(dt.UTC)


class Half:
    """The taking half of an agent, in this process, on threads."""

    def __init__(self, nc, names, kept, name, warned, *, room=None, **settings):
        self.stages = catalog.Catalog(modules=MODULES)
        chosen = config.Swarm(**({"capacity": 2, "lease_s": LEASE_S} | settings))
        self.member = member.Member(
            name,
            nc,
            names,
            chosen,
            stages=self.stages,
            cores=cluster.Cluster("", 2, remote=False),
            warn=lambda severity, message, _: warned.append((severity, message)),
            clock=now,
        )
        self.executor = self.member.executor
        self._threads = in_agent.InAgentExecutor(kept, kit.Services(), threads=4)
        executors = {"ray": self._threads}
        room = nc.max_payload - 4096 if room is None else room
        self.taker = self.member.taker(executors, kept, journal.Journal(nc, names), room)
        self._loops = []

    async def start(self):
        await self.member._presence.show()
        self._loops = [
            asyncio.create_task(self.member.listen()),
            asyncio.create_task(self.taker.serve()),
        ]

    async def stop(self):
        await tasks.end(*self._loops)
        await self.taker.close()

    async def close(self):
        await self.stop()
        await self._threads.close()


@contextlib.asynccontextmanager
async def half(nc, names, kept, name="taker", warned=None, *, start=True, **settings):
    """Give an agent's taking half while the context lasts."""
    made = Half(nc, names, kept, name, [] if warned is None else warned, **settings)
    if start:
        await made.start()
    try:
        yield made
    finally:
        await made.close()


def assignment(use="service.work", /, *, name="", **fields):
    """Make an assignment as a Swarm-Orchestrator does."""
    return swarm.StageAssignment(name or f"assignment-{next(_numbers)}", use, **fields)


async def put(nc, names, asked, *, subject=None, once=False):
    """Put an assignment into the queue; as often as it is called, unless `once`."""
    data = asked if isinstance(asked, bytes) else codec.encode(asked)
    headers = {"Nats-Msg-Id": asked.assignment_id} if once else None
    return await nc.jetstream().publish(subject or names.work(asked.use), data, headers=headers)


async def report(nc, names, name):
    """Wait for the report of an assignment."""
    async with asyncio.timeout(WAIT_S):
        while (found := await reports.Reports(nc, names).read(name)) is None:  # noqa: ASYNC110 - the stream tells nobody
            await asyncio.sleep(0.01)
    return found


async def queued(nc, names):
    """Count the assignments that are in the queue, taken or not."""
    return (await nc.jetstream().stream_info(names.work_stream)).state.messages


async def wait_empty(nc, names):
    """Wait until everything in the queue is done."""
    async with asyncio.timeout(WAIT_S):
        while await queued(nc, names):  # noqa: ASYNC110 - the stream tells nobody
            await asyncio.sleep(0.01)


async def wait_queued(nc, names, count=1):
    """Wait until so many assignments are in the queue."""
    async with asyncio.timeout(WAIT_S):
        while await queued(nc, names) < count:  # noqa: ASYNC110 - the stream tells nobody
            await asyncio.sleep(0.01)


async def kept_reports(nc, names):
    """Count the reports of all assignments."""
    return (await nc.jetstream().stream_info(names.reports_stream)).state.messages


async def wait_lines(trace: pathlib.Path, text: str, count: int = 1):
    """Wait until stages have written so many lines that contain a text."""
    async with asyncio.timeout(WAIT_S):
        while len(found := [one for one in lines(trace) if text in one]) < count:  # noqa: ASYNC110 - a stage writes it
            await asyncio.sleep(0.01)
    return found


def lines(trace: pathlib.Path):
    return trace.read_text().split("\n")[:-1] if trace.exists() else []


async def cancel(nc, names, name, *, force=False):
    """Ask whoever has an assignment to stop; give what is answered."""
    asked = codec.encode(swarm.AssignmentCancel(name, force=force))
    reply = await nc.request(names.assignment_cancel(name), asked, timeout=10)
    return msgspec.json.decode(reply.data, type=swarm.AssignmentStatus)
