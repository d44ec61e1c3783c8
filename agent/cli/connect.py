"""Owns the connection of a command to the running agent, and the translation of what goes wrong."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import nats.errors

from agent import address, config
from agent.bus import connection
from agent.cli import console
from protocol import client, codec, credentials, permissions, signing

CONNECT_S = 3.0
_HINT = (
    "`mlpm config` shows nats.nkey_seed, nats.credentials and the rest, and where they come from"
)


@contextlib.asynccontextmanager
async def connected(
    where: address.Address,
    settings: config.Settings,
    *,
    timeout_s: float = 30.0,
    sign_with: str | None = None,
) -> AsyncIterator[client.Client]:
    """Connect while the context lasts; whatever goes wrong ends the command with a problem."""
    options: dict[str, Any] = {"connect_timeout": CONNECT_S, "error_cb": _heard}
    options |= {"max_reconnect_attempts": 2, "allow_reconnect": True}
    who = connection.who(settings.nats, permissions.OPERATOR)
    shown = config.redact(where.nats_url)
    try:
        options["signing_key"] = signing.read_key(sign_with) if sign_with else None
        async with client.connect(
            where.nats_url, prefix=where.prefix, timeout_s=timeout_s, who=who, **options
        ) as agent:
            yield agent
    except credentials.CredentialsError as error:
        console.stop("not_authorized", str(error), hint=_HINT)
    except client.ClientError as error:
        raise console.Stop(error.problem) from error
    except codec.ProtocolError as error:
        raise console.Stop(error.problem) from error
    except (nats.errors.Error, OSError) as error:
        text = f"the bus at {shown} cannot be reached: {type(error).__name__} {error}".strip()
        console.stop("unavailable", text, hint=console.NO_AGENT)


async def _heard(error: Exception) -> None:
    """Tell what the bus refuses, since nothing else would; the caller reports what it meets."""
    if "permissions violation" in str(error):
        print(str(error), file=sys.stderr)  # noqa: T201 - beside the command's own output
