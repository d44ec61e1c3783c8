"""Owns what an agent stands on: bus, Ray cluster, specialist; started here if not configured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import msgspec
import structlog
from nats.aio.client import Client

from agent import children, config
from agent.bus import connection, server, streams
from agent.execution import cluster
from protocol import subjects

log = structlog.get_logger()

ENOUGH_REPLICAS = 3
"""Of a stream on servers that write to disk now and then: one of them may lose its power."""


class Ground(msgspec.Struct, frozen=True):
    """What the agent stands on."""

    nc: Client
    nats_url: str
    cluster: cluster.Cluster


async def stand(
    settings: config.Settings, agent_id: str, stack: contextlib.AsyncExitStack
) -> Ground:
    """Reach the bus and the Ray cluster, starting what is not configured, side by side."""
    ray = asyncio.create_task(asyncio.to_thread(cluster.start, settings.ray, settings.data_path))
    try:
        nc, url = await _bus(settings, agent_id, stack)
    finally:
        cores = await ray
        stack.callback(cluster.close, cores)
    if settings.specialist.embedded:
        await _specialist(settings, url, cores, stack)
    return Ground(nc, url, cores)


async def _bus(
    settings: config.Settings, agent_id: str, stack: contextlib.AsyncExitStack
) -> tuple[Client, str]:
    url = settings.nats.url
    if not url:
        embedded = server.EmbeddedServer(settings.data_path / "nats", settings.nats.port)
        url = (await stack.enter_async_context(embedded)).url
    nc = await connection.connect(url, settings.nats, agent_id)
    stack.push_async_callback(nc.close)
    names = subjects.Subjects(settings.nats.prefix)
    await streams.ensure(nc.jetstream(), names, settings.nats.replicas)
    if settings.nats.url and settings.nats.replicas < ENOUGH_REPLICAS:
        log.warning(
            "bus.durability_unknown",
            server=config.redact(url),
            hint="an acknowledged message survives a power cut only where the server runs "
            "with jetstream.sync_interval: always, or with three replicas",
        )
    return nc, url


async def _specialist(
    settings: config.Settings,
    nats_url: str,
    cores: cluster.Cluster,
    stack: contextlib.AsyncExitStack,
) -> None:
    command = [sys.executable, "-m", "agent.specialist", "--nats-url", nats_url]
    command += ["--ray-address", cores.address, "--prefix", settings.nats.prefix]
    command += ["--data-dir", str(settings.data_path / "specialist")]
    command += ["--parent", str(os.getpid())]
    kept = children.Kept("specialist", command, settings.data_path / "specialist.log")
    await kept.start()
    stack.push_async_callback(kept.stop)
