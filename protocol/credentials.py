"""Owns who a connection to the bus is: its key, whom it trusts, where it is answered."""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import ssl
import urllib.parse
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from protocol import tolerant

_ANYBODY = 0o007
_NO_PUBLISH = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)
_REFUSALS = ("authorization violation", "authentication expired", "account authentication")


class CredentialsError(Exception):
    """This side cannot be who it should be, or the other side is not who it should be."""


class FileUnusable(CredentialsError):
    """A file of a key or certificate is not there, or is no such thing."""

    def __init__(self, what: str, path: str, reason: str) -> None:
        super().__init__(f"the {what} {path} cannot be used: {reason}")
        self.path = path


class FileExposed(CredentialsError):
    """A file with a secret is open to every user of the machine."""

    def __init__(self, what: str, path: str, mode: int) -> None:
        super().__init__(
            f"the {what} {path} is open to every user of this machine (mode {mode:04o}): "
            f"chmod 600 {path}"
        )
        self.path = path


class Refused(CredentialsError):
    """The server does not let this user in."""

    def __init__(self, server: str) -> None:
        super().__init__(
            f"the bus at {server} refuses this user: its key, credentials, password or certificate "
            "is missing, or is not one that the server knows"
        )
        self.server = server


class NotPermitted(nats.errors.Error):  # type: ignore[misc]
    """The server lets this user in, and does not let it say this."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"the bus does not let this user publish to {subject}")
        self.subject = subject


class Untrusted(CredentialsError):
    """The TLS handshake failed."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(
            f"no trusted connection to the bus at {server} ({reason}): look at the authority "
            "(tls_ca), this side's certificate (tls_cert, tls_key) and the host's name"
        )
        self.server = server


class NotEncrypted(nats.errors.Error):  # type: ignore[misc]  # it is tried again like its kind
    """TLS is wanted and the server does not ask for it."""

    def __init__(self, server: str) -> None:
        super().__init__(f"the bus at {server} does not ask for TLS, which is wanted here")
        self.server = server


class Credentials(msgspec.Struct, frozen=True):
    """Files that say who we are and whom we trust, and the inbox that is ours."""

    credentials: str | None = None
    """A NATS credentials file: a JWT and its key."""
    nkey_seed: str | None = None
    """A file with the seed of an nkey."""
    tls_ca: str | None = None
    """The certificate of the authority that the server is trusted by; else the system's."""
    tls_cert: str | None = None
    """The certificate that the server is shown."""
    tls_key: str | None = None
    """Its key, where that is not in the same file."""
    inbox: str = "_INBOX.orchestrator"
    """What replies come to; only whoever may listen below it reads them."""

    def options(self) -> dict[str, Any]:
        """Give the options of `nats.connect`; raise CredentialsError."""
        options: dict[str, Any] = {"inbox_prefix": self.inbox}
        if self.credentials:
            options["user_credentials"] = _credentials_file(self.credentials)
        elif self.nkey_seed:
            options["nkeys_seed"] = _seed_file(self.nkey_seed)
        if self.tls_ca or self.tls_cert:
            options["tls"] = self._context()
        return options

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise FileUnusable("certificate", str(self.tls_ca), _reason(error)) from error
        if self.tls_cert:
            key = self.tls_key or self.tls_cert
            read_secret("TLS key", key)
            try:
                context.load_cert_chain(self.tls_cert, key, password=_no_password)
            except (OSError, ssl.SSLError) as error:
                raise FileUnusable("certificate", self.tls_cert, _reason(error)) from error
        return context


NOBODY = Credentials()


def _credentials_file(path: str) -> str:
    held = read_secret("credentials file", path)
    # The library would look for the first of these for ever.
    if not all(part in held for part in (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")):
        raise FileUnusable("credentials file", path, "it does not hold a user's JWT and its key")
    return path


def _seed_file(path: str) -> str:
    import nkeys

    held = read_secret("nkey seed", path)
    try:
        nkeys.from_seed(bytearray(held.strip())).wipe()
    except (nkeys.NkeysError, ValueError):
        raise FileUnusable("nkey seed", path, "it does not hold one") from None
    return path


def read_secret(what: str, path: str) -> bytes:
    """Read a secret that only its user, or a group, can read; raise FileUnusable, FileExposed."""
    try:
        with pathlib.Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            held = file.read()
    except OSError as error:
        raise FileUnusable(what, path, _reason(error)) from error
    if mode & _ANYBODY:
        raise FileExposed(what, path, mode)
    return held


def _no_password() -> str:
    """Keep OpenSSL from asking for one on the terminal."""
    return ""


async def connect(url: str, who: Credentials = NOBODY, **options: Any) -> Client:
    """Connect to one of the servers of a URL (commas between them).

    A user, or a token, inside the URL is taken for all of them. Raises CredentialsError where a
    wrong key or certificate would keep us out for ever; a server that is away is waited for as the
    options say.
    """
    client = _Client(plain(url))
    await client.connect(_servers(url), **{**_user(url), **who.options(), **options})
    return client


async def ask(client: Client, subject: str, data: bytes, **options: Any) -> Msg:
    """Do as `client.request` does, and raise NotPermitted as soon as the server says so.

    The server says it aside, and the library would wait for an answer that cannot come.
    """
    asking = asyncio.ensure_future(client.request(subject, data, **options))
    refused = client.refusal(subject) if isinstance(client, _Client) else asking
    try:
        await asyncio.wait({asking, refused}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            return asking.result()
        raise NotPermitted(subject)
    finally:
        asking.cancel()
        await asyncio.wait({asking})


def plain(url: str) -> str:
    """Give a URL of servers without the user or token in it."""
    return re.sub(r"(^|//|,\s*)[^/,\s]*@", r"\1", url)


def _servers(url: str) -> list[str]:
    return [server.strip() for server in plain(url).split(",") if server.strip()]


def _user(url: str) -> dict[str, str]:
    """Find the user, or the token, that one of the servers is given with."""
    for server in url.split(","):
        authority = server.strip().rpartition("//")[2].partition("/")[0]
        said, at, _ = authority.rpartition("@")
        name, colon, password = said.partition(":")
        if at and not colon:
            return {"token": urllib.parse.unquote(name)}
        if at:
            unquoted = urllib.parse.unquote
            return {"user": unquoted(name), "password": unquoted(password)}
    return {}


class _Client(tolerant.TolerantClient):
    """Gives up at once what would never succeed, and says nothing to a server without TLS."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self._transport: Any = None
        self._shown = shown
        self._was_connected = False
        self._refusals: dict[str, asyncio.Future[None]] = {}

    def refusal(self, subject: str) -> asyncio.Future[None]:
        """Give what is done once the server has refused a message to a subject."""
        known = self._refusals.get(subject)
        if known is None or known.done():
            known = self._refusals[subject] = asyncio.get_running_loop().create_future()
        return known

    async def _process_err(self, err_msg: str) -> None:
        said = _NO_PUBLISH.search(err_msg)
        for subject, refusal in self._refusals.items():
            if said and said[1].lower() == subject.lower() and not refusal.done():
                refusal.set_result(None)
        await super()._process_err(err_msg)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (nats.errors.Error, OSError) as error:
            if isinstance(error, ssl.SSLError) and self._transport is not None:
                # The library would wait for ever for the end of a handshake that failed.
                self._transport.close()
                self._transport = None
            refusal = None if self._was_connected else _refusal(error, self._shown)
            if refusal is None:
                raise
            await self._close(Client.CLOSED, do_cbs=False)
            raise refusal from error
        self._was_connected = True

    def _connect_command(self) -> bytes:
        # What is said next may hold a password. The library says it to whoever answers.
        wanted = "tls" in self.options or self._current_server.uri.scheme == "tls"
        if wanted and not self._server_info.get("tls_required"):
            raise NotEncrypted(self._shown)
        return bytes(super()._connect_command())


def _refusal(error: Exception, server: str) -> CredentialsError | None:
    if isinstance(error, ssl.SSLError):
        return Untrusted(server, _reason(error))
    if isinstance(error, NotEncrypted):
        return Untrusted(server, "it does not ask for TLS")
    if any(said in str(error).lower() for said in _REFUSALS):
        return Refused(server)
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "not a PEM file of that kind").replace("_", " ").lower()
    return str(getattr(error, "strerror", None) or type(error).__name__)
