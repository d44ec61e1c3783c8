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
from typing import Any

import nats
import structlog

from agent.specialist import service
from protocol import subjects

PARENT_CHECK_S = 0.5


def main() -> None:
    """Serve trainings until a signal comes, or the parent is gone."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(_serve(_flags()))


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser("agent.specialist", description=__doc__)
    parser.add_argument("--nats-url", required=True)
    parser.add_argument("--ray-address", default="", help="without it a local Ray is started")
    parser.add_argument("--ray-cpus", type=int, help="of the local Ray")
    parser.add_argument("--data-dir", required=True, type=pathlib.Path)
    parser.add_argument("--prefix", default="codeguardian")
    parser.add_argument("--name", default=f"specialist-{socket.gethostname()}-{os.getpid()}")
    parser.add_argument("--credentials", help="a NATS credentials file")
    parser.add_argument("--nkey-seed", help="a file with an nkey seed")
    parser.add_argument("--tls-ca", help="a file with the authority of the server's certificate")
    parser.add_argument("--parent", type=int, help="end when this process is gone")
    return parser.parse_args()


async def _serve(flags: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    client = await nats.connect(flags.nats_url, **_options(flags))
    await asyncio.to_thread(_start_ray, flags.ray_address, flags.ray_cpus)
    specialist = service.Specialist(
        client, subjects.Subjects(flags.prefix), flags.data_dir.resolve(), name=flags.name
    )
    await specialist.start()
    structlog.get_logger().info("specialist.ready", name=flags.name, nats=flags.nats_url)
    await _wait_stopped(stop, flags.parent)
    await specialist.close()
    with contextlib.suppress(nats.errors.Error):
        await client.drain()


def _options(flags: argparse.Namespace) -> dict[str, Any]:
    import ssl

    options: dict[str, Any] = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.1}
    options["name"] = flags.name
    if flags.credentials:
        options["user_credentials"] = flags.credentials
    if flags.nkey_seed:
        options["nkeys_seed"] = flags.nkey_seed
    if flags.tls_ca:
        options["tls"] = ssl.create_default_context(cafile=flags.tls_ca)
    return options


def _start_ray(address: str, cpus: int | None) -> None:
    import ray

    local: dict[str, Any] = {"address": "local", "include_dashboard": False, "num_cpus": cpus}
    options = {"address": address} if address else local
    ray.init(log_to_driver=False, configure_logging=False, **options)


async def _wait_stopped(stop: asyncio.Event, parent: int | None) -> None:
    while not stop.is_set() and (parent is None or os.getppid() == parent):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARENT_CHECK_S):
                await stop.wait()


if __name__ == "__main__":
    main()
