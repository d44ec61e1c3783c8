"""Owns the connection to the bus: its credentials, its reconnection, its log."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from nats.aio.client import Client

from agent import config
from protocol import credentials, permissions

log = structlog.get_logger()

RECONNECT_WAIT_S = 0.1
PING_S = 5.0
UNANSWERED = 2
"""After so many pings without an answer a connection is made anew: its other end may be gone, and
then nothing but this tells."""
_LOOK_EVERY_S = 1.0


async def connect(
    url: str, settings: config.Nats, name: str, *, role: str = permissions.AGENT
) -> Client:
    """Connect, and stay connected: a server that is away is waited for.

    Raises credentials.CredentialsError where it would be in vain.
    """
    return await credentials.connect(url, who(settings, role), name=name, **_OPTIONS)


def who(settings: config.Nats, role: str) -> credentials.Credentials:
    """Say who we are, and whom we trust."""
    return credentials.Credentials(
        credentials=settings.credentials,
        nkey_seed=settings.nkey_seed,
        tls_ca=settings.tls_ca,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        inbox=settings.inbox or permissions.inbox(role),
    )


async def wait_closed(nc: Client) -> None:
    """Wait until a connection is over for good: the server refused something, or it was closed.

    The client's own callback is not called where the server hung up while something was on its way.
    """
    while not nc.is_closed:  # noqa: ASYNC110 - see above
        await asyncio.sleep(_LOOK_EVERY_S)


async def _failed(error: Exception) -> None:
    log.warning("bus.failed", error=type(error).__name__, reason=str(error))


async def _disconnected() -> None:
    log.warning("bus.disconnected")


async def _reconnected() -> None:
    log.info("bus.reconnected")


_OPTIONS: dict[str, Any] = {
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": RECONNECT_WAIT_S,
    "ping_interval": PING_S,
    "max_outstanding_pings": UNANSWERED,
    "error_cb": _failed,
    "disconnected_cb": _disconnected,
    "reconnected_cb": _reconnected,
}
