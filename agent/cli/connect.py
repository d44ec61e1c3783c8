"""Owns the connection of a command to the running agent, and the translation of what goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import nats.errors

from agent import address, config
from agent.bus import connection
from agent.cli import console
from protocol import client, codec

CONNECT_S = 3.0


@contextlib.asynccontextmanager
async def connected(
    where: address.Address, settings: config.Settings, *, timeout_s: float = 30.0
) -> AsyncIterator[client.Client]:
    """Connect while the context lasts; whatever goes wrong ends the command with a problem."""
    options: dict[str, Any] = {"connect_timeout": CONNECT_S, "error_cb": _quiet}
    options |= connection.identity(settings.nats) | {
        "max_reconnect_attempts": 2,
        "allow_reconnect": True,
    }
    shown = config.redact(where.nats_url)
    try:
        async with client.connect(
            where.nats_url, prefix=where.prefix, timeout_s=timeout_s, **options
        ) as agent:
            yield agent
    except client.ClientError as error:
        raise console.Stop(error.problem) from error
    except codec.ProtocolError as error:
        raise console.Stop(error.problem) from error
    except (nats.errors.Error, OSError) as error:
        text = f"the bus at {shown} cannot be reached: {type(error).__name__} {error}".strip()
        console.stop("unavailable", text, hint=console.NO_AGENT)


async def _quiet(_: Exception) -> None:
    """Print nothing: the caller reports what it meets."""
