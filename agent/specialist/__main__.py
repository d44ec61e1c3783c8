"""Owns the specialist's process: its flags, its connections, its end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import sys

import msgspec
import nats.errors
import structlog

from agent import config, layers
from agent.artifacts import objects
from agent.bus import connection
from agent.execution import cluster
from agent.specialist import service
from protocol import permissions, subjects

PARENT_CHECK_S = 0.5


def main() -> None:
    """Serve trainings until a signal comes, or the parent is gone."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(_serve(_flags()))


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser("agent.specialist", description=__doc__)
    parser.add_argument("--nats-url", help="else nats.url, as in the agent's configuration")
    parser.add_argument("--ray-address", default="", help="without it a local Ray is started")
    parser.add_argument("--ray-cpus", type=int, help="of the local Ray")
    parser.add_argument("--data-dir", required=True, type=pathlib.Path)
    parser.add_argument("--prefix", help="else nats.prefix")
    parser.add_argument("--name", default=f"specialist-{socket.gethostname()}-{os.getpid()}")
    parser.add_argument("--parent", type=int, help="end when this process is gone")
    return parser.parse_args()


async def _serve(flags: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    bus = _bus(flags)
    client = await connection.connect(bus.url, bus, flags.name, role=permissions.SPECIALIST)
    await asyncio.to_thread(cluster.start, _ray(flags), flags.data_dir.resolve())
    specialist = service.Specialist(
        client,
        subjects.Subjects(bus.prefix),
        flags.data_dir.resolve(),
        name=flags.name,
        bus=objects.access(bus.url, bus, permissions.SPECIALIST),
    )
    await specialist.start()
    shown = config.redact(bus.url)
    structlog.get_logger().info("specialist.ready", name=flags.name, nats=shown)
    await _wait_stopped(stop, flags.parent)
    await specialist.close()
    with contextlib.suppress(nats.errors.Error):
        await client.drain()


def _bus(flags: argparse.Namespace) -> config.Nats:
    """Give the configured bus; others could read a key or password among the flags."""
    configured = layers.load().nats
    given = {"url": flags.nats_url or configured.url, "prefix": flags.prefix or configured.prefix}
    return msgspec.structs.replace(configured, **given)


def _ray(flags: argparse.Namespace) -> config.Ray:
    """Say which cluster to join; the agent that started us has judged its own."""
    allow_open = flags.parent is not None or layers.load().ray.allow_open
    return config.Ray(address=flags.ray_address, cpus=flags.ray_cpus, allow_open=allow_open)


async def _wait_stopped(stop: asyncio.Event, parent: int | None) -> None:
    while not stop.is_set() and (parent is None or os.getppid() == parent):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARENT_CHECK_S):
                await stop.wait()


if __name__ == "__main__":
    main()
