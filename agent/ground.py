"""Owns what an agent stands on: bus, Ray cluster, specialist; started here if not configured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import msgspec
import structlog
from nats.aio.client import Client

from agent import children, config, layers, tasks
from agent.bus import connection, server, streams
from agent.execution import cluster, vigil
from protocol import permissions, subjects

log = structlog.get_logger()

ENOUGH_REPLICAS = 3
"""Of a stream on servers that write to disk now and then: one of them may lose its power."""


class Ground(msgspec.Struct, frozen=True):
    """What the agent stands on."""

    nc: Client
    nats_url: str
    cluster: cluster.Cluster
    vigil: vigil.Vigil


async def stand(
    settings: config.Settings, agent_id: str, stack: contextlib.AsyncExitStack
) -> Ground:
    """Reach the bus and the Ray cluster, starting what is not configured, side by side."""
    ray = asyncio.create_task(asyncio.to_thread(cluster.start, settings.ray, settings.data_path))
    try:
        nc, url = await _bus(settings, agent_id, stack)
    finally:
        cores = await ray
        watch = vigil.Vigil(cores.address)
        stack.callback(_leave, cores, watch)
    if settings.specialist.embedded:
        await _specialist(settings, url, cores, stack)
    return Ground(nc, url, cores, watch)


def _leave(cores: cluster.Cluster, watch: vigil.Vigil) -> None:
    watch.end()
    if not watch.lost:  # taking leave of a head that is gone takes a minute
        cluster.close(cores)


async def _bus(
    settings: config.Settings, agent_id: str, stack: contextlib.AsyncExitStack
) -> tuple[Client, str]:
    url = settings.nats.url
    if not url:
        embedded = server.EmbeddedServer(settings.data_path / "nats", settings.nats.port)
        url = (await stack.enter_async_context(embedded)).url
        keeping = asyncio.create_task(embedded.keep(), name="keep the bus")
        stack.push_async_callback(tasks.end, keeping)
    nc = await connection.connect(url, settings.nats, agent_id)
    stack.push_async_callback(_close, nc)
    names = subjects.Subjects(settings.nats.prefix)
    js, replicas = nc.jetstream(), settings.nats.replicas
    await streams.ensure(js, names, replicas, settings.security)
    if settings.artifacts.uri == config.OBJECTS:
        await streams.keep(js, streams.bucket(names, replicas, settings.artifacts.max_bytes))
    if settings.nats.url and settings.nats.replicas < ENOUGH_REPLICAS:
        log.warning(
            "bus.durability_unknown",
            server=config.redact(url),
            hint="an acknowledged message survives a power cut only where the server runs "
            "with jetstream.sync_interval: always, or with three replicas",
        )
    return nc, url


async def _close(nc: Client) -> None:
    with contextlib.suppress(RuntimeError, OSError):  # of a transport that has just broken
        await nc.close()


async def _specialist(
    settings: config.Settings,
    nats_url: str,
    cores: cluster.Cluster,
    stack: contextlib.AsyncExitStack,
) -> None:
    command = [sys.executable, "-m", "agent.specialist", "--ray-address", cores.address]
    command += ["--data-dir", str(settings.data_path / "specialist")]
    command += ["--parent", str(os.getpid())]
    log_file = settings.data_path / "specialist.log"
    kept = children.Kept(
        "specialist", command, log_file, env=told(settings, nats_url, settings.specialist)
    )
    await kept.start()
    stack.push_async_callback(kept.stop)


def told(
    settings: config.Settings, nats_url: str, own: config.Specialist | config.Serving
) -> dict[str, str]:
    """Tell another process about the bus in its environment: everybody sees a process's flags."""
    inbox = connection.who(settings.nats, permissions.AGENT).inbox
    bus = msgspec.structs.replace(settings.nats, url=nats_url, inbox=inbox)
    if own.credentials or own.nkey_seed:
        keys = {"credentials": own.credentials, "nkey_seed": own.nkey_seed}
        bus = msgspec.structs.replace(bus, **keys, inbox="")
    said = {
        f"{layers.ENV_PREFIX}NATS__{name.upper()}": "" if value is None else str(value)
        for name, value in msgspec.structs.asdict(bus).items()
    }
    return {**os.environ, **said}
