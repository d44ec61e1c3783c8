"""Owns the connection to the bus: its credentials, its reconnection, its log."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import nats
import structlog
from nats.aio.client import Client

from agent import config

log = structlog.get_logger()

RECONNECT_WAIT_S = 0.1
_LOOK_EVERY_S = 1.0


async def connect(url: str, settings: config.Nats, name: str) -> Client:
    """Connect, and stay connected: a server that is away is waited for."""
    return await nats.connect(url, name=name, **_options(settings))


async def wait_closed(nc: Client) -> None:
    """Wait until a connection is over for good: the server refused something, or it was closed.

    The client's own callback is not called where the server hung up while something was on its way.
    """
    while not nc.is_closed:  # noqa: ASYNC110 - see above
        await asyncio.sleep(_LOOK_EVERY_S)


def _options(settings: config.Nats) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_S,
        "error_cb": _failed,
        "disconnected_cb": _disconnected,
        "reconnected_cb": _reconnected,
    }
    return options | identity(settings)


def identity(settings: config.Nats) -> dict[str, Any]:
    """Give the options that say who we are, and whom we trust."""
    options: dict[str, Any] = {}
    if settings.credentials:
        options["user_credentials"] = settings.credentials
    if settings.nkey_seed:
        options["nkeys_seed"] = settings.nkey_seed
    if settings.tls_ca:
        options["tls"] = ssl.create_default_context(cafile=settings.tls_ca)
    return options


async def _failed(error: Exception) -> None:
    log.warning("bus.failed", error=type(error).__name__)


async def _disconnected() -> None:
    log.warning("bus.disconnected")


async def _reconnected() -> None:
    log.info("bus.reconnected")
