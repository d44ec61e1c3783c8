"""Owns the connection to the server of messages: who a worker is there, and whom it tells that.

The agent's own connections keep the same two rules, in another room.
"""

from __future__ import annotations

import pathlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client

from stages import kit

_ANYBODY = 0o007
_RECONNECT_S = 0.1
_INBOX = "_INBOX.worker"
"""Stages run in workers: where the bus tells roles apart, this is theirs."""


class KeyExposed(kit.NotAllowed):
    """A file that lets the worker in is open to every user of the machine."""

    def __init__(self, path: str, mode: int) -> None:
        super().__init__(
            f"the key in {path} is open to every user of this machine (mode {mode:04o})",
            hint=f"chmod 600 {path}",
        )


class NotEncrypted(nats.errors.Error):  # type: ignore[misc]  # it is tried again like its kind
    """TLS is wanted, and the server does not ask for it."""

    def __init__(self) -> None:
        super().__init__("it does not ask for TLS, which is wanted here")


async def connect(services: kit.Services, note: Callable[[Exception], Awaitable[None]]) -> Client:
    """Connect with the worker's key; raise KeyExposed, or what the library raises."""
    client = _Client()
    await client.connect(
        services.nats_url.split(","),
        name="ingest.stream",
        inbox_prefix=_INBOX,
        error_cb=note,
        max_reconnect_attempts=1,
        reconnect_time_wait=_RECONNECT_S,
        **_options(services),
    )
    return client


def _options(services: kit.Services) -> dict[str, Any]:
    for path in (services.nats_credentials, services.nats_nkey_seed):
        _require_own(path)
    return {
        "user_credentials": services.nats_credentials,
        "nkeys_seed": services.nats_nkey_seed,
        "tls": _trusted(services),
    }


def _trusted(services: kit.Services) -> ssl.SSLContext | None:
    if not services.nats_tls_ca and not services.nats_tls_cert:
        return None
    context = ssl.create_default_context(cafile=services.nats_tls_ca)
    if services.nats_tls_cert:
        _require_own(services.nats_tls_key or services.nats_tls_cert)
        context.load_cert_chain(services.nats_tls_cert, services.nats_tls_key)
    return context


def _require_own(path: str | None) -> None:
    """See that only its user, or a group, can get at a file with a key."""
    if path and (mode := pathlib.Path(path).stat().st_mode & 0o777) & _ANYBODY:
        raise KeyExposed(path, mode)


class _Client(Client):  # type: ignore[misc]
    """Says nothing to a server without TLS where TLS is wanted, when it connects again too."""

    def _connect_command(self) -> bytes:
        # What is said next may hold a password. The library says it to whoever answers.
        wanted = "tls" in self.options or self._current_server.uri.scheme == "tls"
        if wanted and not self._server_info.get("tls_required"):
            raise NotEncrypted
        return bytes(super()._connect_command())
