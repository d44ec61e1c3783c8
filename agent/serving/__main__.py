"""Owns the serving host's process: its folder, its cluster, its bus, its end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Callable

import msgspec
import nats.errors
import psutil
import structlog
from nats.aio.client import Client

from agent import address, config, layers, tasks
from agent.artifacts import objects
from agent.bus import connection, journal
from agent.execution import cluster
from agent.serving import desired, host, http, orders, place, rayserve, replica, responder
from agent.telemetry import logs
from protocol import artifacts, permissions, subjects

log = structlog.get_logger()

LOOK_S = 0.25
CONNECT_S = 3.0
IDLE_S = 5.0
"""With nothing to serve for so long it ends."""
_CONNECTS = "RAY_ENABLE_AUTO_CONNECT"
"""A call that finds no Ray would start one, and this process would not end."""
_OBJECT_STORE_BYTES = 128 * 2**20


def main() -> None:
    """Serve models until a signal comes."""
    parser = argparse.ArgumentParser("agent.serving", description=__doc__)
    parser.add_argument("--config", type=pathlib.Path, help="the agent's configuration file")
    parser.add_argument("--until-idle", action="store_true", help="end once nothing is deployed")
    flags = parser.parse_args()
    settings = layers.load(flags.config)
    logs.configure(settings.logs)
    own = place.folder(settings.data_path)
    try:
        with place.held(own):
            import uvloop

            uvloop.run(_serve(settings, own, stay=not flags.until_idle))
    except place.AlreadyServed as error:
        sys.exit(str(error))


async def _serve(settings: config.Settings, own: pathlib.Path, *, stay: bool) -> None:
    os.environ[_CONNECTS] = "0"
    stop = asyncio.Event()
    _stop_on_signals(stop)
    chosen = settings.serving
    ray = msgspec.structs.replace(
        settings.ray, cpus=chosen.cpus, object_store_bytes=_OBJECT_STORE_BYTES
    )
    joined = await asyncio.to_thread(cluster.start, ray, own)
    _stop_on_signals(stop)  # Ray's own handler, set since, would abort us
    names = subjects.Subjects(settings.nats.prefix)
    deploys = rayserve.RayServe(settings.nats.prefix, lambda ref: _place(settings, own, ref))
    await deploys.open()
    with contextlib.closing(http.listen(chosen, own)) as listening:
        serves = host.Host(deploys, names, http.url_of(listening))
        told = orders.Orders(serves)
        async with http.serve(http.App(serves, chosen), listening), _following(serves, told):
            place.note(own, http.url_of(listening))
            log.info("serving.ready", url=http.url_of(listening))
            attending = asyncio.create_task(_attend(settings, names, serves, told), name="attend")
            await _wait_needless(stop, lambda: stay or serves.needed or told.under_way, own)
            await tasks.end(attending)
    await deploys.close()
    await asyncio.to_thread(cluster.close, joined)
    log.info("serving.ended")


def _stop_on_signals(stop: asyncio.Event) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)


@contextlib.asynccontextmanager
async def _following(serves: host.Host, told: orders.Orders) -> AsyncIterator[None]:
    following = asyncio.create_task(serves.follow(), name="follow")
    try:
        yield
    finally:
        await tasks.end(following)
        await told.close()
        await serves.close()


async def _wait_needless(
    stop: asyncio.Event, needed: Callable[[], bool], own: pathlib.Path
) -> None:
    """Wait for a signal, or until there is nothing to serve, or the folder was taken away."""
    idle_s = 0.0
    while not stop.is_set() and idle_s < IDLE_S and place.is_ours(own):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await stop.wait()
        idle_s = 0.0 if needed() else idle_s + LOOK_S


async def _attend(
    settings: config.Settings, names: subjects.Subjects, serves: host.Host, told: orders.Orders
) -> None:
    """Listen on the bus, wherever it is; the agent's own moves when the agent is started anew."""
    while True:
        while not (url := _bus_url(settings)):  # noqa: ASYNC110 - another process notes it
            await asyncio.sleep(LOOK_S)
        try:
            async with asyncio.timeout(CONNECT_S):
                nc = await connection.connect(
                    url, settings.nats, "serving", role=permissions.SERVING
                )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.warning("bus.not_reached", reason=str(error) or type(error).__name__)
            await asyncio.sleep(LOOK_S)
            continue
        try:
            bus = host.Bus(desired.Desired(nc, names), journal.Journal(nc, names))
            answering = responder.Responder(nc, names, serves, told)
            with serves.attached(bus):
                await answering.open()
                log.info("serving.attached", bus=config.redact(url))
                await _wait_moved(nc, settings, url)
            await answering.close()
        finally:
            with contextlib.suppress(nats.errors.Error, RuntimeError, OSError):
                await nc.close()


async def _wait_moved(nc: Client, settings: config.Settings, url: str) -> None:
    """Wait until the bus is elsewhere, or the connection is over for good."""
    while not nc.is_closed and (nc.is_connected or _bus_url(settings) == url):  # noqa: ASYNC110 - the same
        await asyncio.sleep(LOOK_S)


def _bus_url(settings: config.Settings) -> str:
    """Give the bus's URL: the agent's own server has another port after each start.

    Empty while there is none: a note may be left of an agent that was killed.
    """
    found = address.read(settings.data_path)
    there = found is not None and psutil.pid_exists(found.pid)
    return settings.nats.url or (found.nats_url if found and there else "")


def _place(
    settings: config.Settings, own: pathlib.Path, ref: artifacts.ArtifactRef
) -> replica.Place:
    bus = objects.access(_bus_url(settings), settings.nats, permissions.SERVING)
    copies = str(own / "artifact-copies")
    return replica.Place(ref, settings.artifacts_uri, copies, bus, settings.serving.max_rows)


if __name__ == "__main__":
    main()
