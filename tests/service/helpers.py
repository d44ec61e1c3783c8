"""Owns what the tests of the running agent share: asking for runs, watching them, waiting."""

from __future__ import annotations

import asyncio
import pathlib

import msgspec
import psutil
import pytest

from agent import config
from protocol import client, codec, commands, events

MODULES = ("tests.execution.sample_stages", "tests.service.sample_stages")
MARKS = [
    pytest.mark.ray,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("service"),
]
WAIT_S = 30.0
LEASE_S = 2.0
PRICE = 3.6


def settings(folder: pathlib.Path, **changes) -> config.Settings:
    """Configure an agent that needs little: two CPUs, no specialist, short leases."""
    asked = {
        "data_dir": str(folder),
        "ray": config.Ray(cpus=2, workers=2),
        "specialist": config.Specialist(embedded=False),
        "runs": config.Runs(lease_s=LEASE_S),
        "logs": config.Logs(format="json"),
        "price_per_cpu_hour": PRICE,
    }
    return config.Settings(**(asked | changes))


def stage(name, use, params=None, /, **fields):
    """Describe a stage as a request has it."""
    return {"id": name, "use": use, "with": params or {}, **fields}


def chained(trace, go):
    """Describe two stages in a row that write to `trace`, the first until a file is there."""
    told = {"trace": str(trace), "name": "a", "until": str(go)}
    return [
        stage("a", "service.work", told),
        stage("b", "service.work", told | {"name": "b"}, inputs={"report": "a"}),
    ]


def request(*stages, name="p", **options):
    return client.make_request(pipeline={"name": name, "stages": list(stages)}, options=options)


async def submit(ask, *stages, **options):
    """Ask for a run and give its id."""
    return (await ask.submit(request(*stages, **options))).run_id


async def story(ask, run_id):
    """Give all events of a run, once it is over."""
    async with asyncio.timeout(WAIT_S):
        return [entry.event async for entry in ask.follow(run_id)]


async def ended(ask, run_id):
    """Wait until a run is over, and give its status."""
    await story(ask, run_id)
    return await ask.status(run_id)


async def done(ask, *stages, **options):
    """Run a pipeline to its end; give its status and its events."""
    run_id = await submit(ask, *stages, **options)
    told = await story(ask, run_id)
    return await ask.status(run_id), told


async def wait_event(ask, run_id, kind, scope=None):
    """Wait for the first event of a kind."""
    async with asyncio.timeout(WAIT_S):
        async for entry in ask.follow(run_id):
            if isinstance(entry.event, kind) and scope in {None, entry.event.scope}:
                return entry.event
    raise AssertionError(f"the run ended without {kind.__name__}")


async def wait_state(ask, run_id, *wanted):
    """Wait until a run is in one of some states, and give its status."""
    async with asyncio.timeout(WAIT_S):
        while (found := await ask.status(run_id)).state not in wanted:  # noqa: ASYNC110 - not every state has an event
            await asyncio.sleep(0.02)
    return found


async def wait_until(condition):
    """Wait until a condition holds that nothing announces, and give what it gave."""
    async with asyncio.timeout(WAIT_S):
        while not (found := condition()):  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.01)
    return found


async def wait_line(trace: pathlib.Path, text: str) -> str:
    """Wait until a stage has written a line that contains a text."""
    return await wait_until(lambda: next((one for one in lines(trace) if text in one), ""))


def lines(trace: pathlib.Path) -> list[str]:
    """Give the whole lines that stages wrote."""
    return trace.read_text().split("\n")[:-1] if trace.exists() else []


def of(told, kind, scope=None):
    """Choose events of a kind."""
    return [one for one in told if isinstance(one, kind) and scope in {None, one.scope}]


def by_id(status: commands.RunStatus) -> dict[str, commands.StageStatus]:
    return {one.id: one for one in status.stages}


def pid_of(where: str) -> int:
    """Read the process out of `pid 12 on host`."""
    return int(where.split()[1])


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def ask_raw(bus, subject, body, **headers):
    """Send bytes as they are; give the reply's headers and its body, read as JSON."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    reply = await bus.request(subject, data, timeout=10, headers=headers or None)
    return reply.headers or {}, msgspec.json.decode(reply.data)


async def commits(ask, run_id):
    """Give a run's commits, as bytes and decoded."""
    raw = [one.data async for one in ask.journal(run_id)]
    return raw, [codec.decode(data, events.Commit) for data in raw]
