"""Owns signatures of requests: the `Agent-Sender` header of the Synadia Agent Protocol, chapter 13.

Signed are account, key, subject, time, nonce and the SHA-256 of the payload, with Ed25519, by the
nkey of a NATS user. The key is what a signature proves; nothing is granted on the account.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import functools
import hashlib
import secrets
from typing import Annotated

import msgspec

from protocol import subjects

VERSION = 1
NO_ACCOUNTS = "$G"
"""The account of whoever is on a server that has none."""

_TAG = "AGENT-SENDER-V1"
_MAX_BYTES = 2048
_NONCE_BYTES = 16
_CHECKSUM = 2
# Python's `$` also matches before a final line feed; the lookahead refuses one.
_END = r"$(?!\n)"


class SigningError(Exception):
    """Something cannot be signed, or what is signed cannot be read."""


class NotAKey(SigningError):
    """A text is not the seed, or not the public key, of a user's nkey."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this is not {what} of a user's nkey")


class Malformed(SigningError):
    """A header cannot be read."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the {subjects.SENDER} header cannot be read: {reason}")


class Sender(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a header says. Without `sig` it is a claim, which proves nothing."""

    v: int | float
    account: Annotated[
        str, msgspec.Meta(pattern=rf"^(A[A-Z2-7]{{55}}|[A-Za-z0-9_-]{{1,64}}|\$G){_END}")
    ]
    user: Annotated[str, msgspec.Meta(pattern=rf"^U[A-Z2-7]{{55}}{_END}")]
    sub: Annotated[str, msgspec.Meta(pattern=rf"^[^\s\x00-\x1f\x7f]+{_END}")] | None = None
    ts: (
        Annotated[
            str,
            msgspec.Meta(pattern=rf"^\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{{1,9}})?Z{_END}"),
        ]
        | None
    ) = None
    nonce: Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9_-]{{1,64}}{_END}")] | None = None
    sig: Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9_-]{{86}}{_END}")] | None = None

    @property
    def at(self) -> dt.datetime:
        """Give the time that is signed; raise ValueError if there is none like it."""
        return dt.datetime.fromisoformat(self.ts or "")


class _Version(msgspec.Struct):
    v: int | float


class Key:
    """A key pair that signs for a user; only its public half is ever shown.

    Raises NotAKey if the seed is not one.
    """

    def __init__(self, seed: bytes | str, account: str = NO_ACCOUNTS) -> None:
        import nkeys

        text = seed.strip().encode() if isinstance(seed, str) else seed.strip()
        self.account = account
        try:
            _checked(text)
            self._pair = nkeys.from_seed(bytearray(text))
            self.public = self._pair.public_key.decode()
        except (nkeys.NkeysError, ValueError):
            raise NotAKey("the seed") from None
        if not self.public.startswith("U"):
            raise NotAKey("the seed")

    def __repr__(self) -> str:
        return f"Key({self.public})"

    def headers(
        self, subject: str, payload: bytes, *, at: dt.datetime | None = None, nonce: str = ""
    ) -> dict[str, str]:
        """Sign a payload for a subject: now and with a new nonce, where none are given."""
        moment = at or dt.datetime.now(dt.UTC)
        unsigned = Sender(
            VERSION,
            self.account,
            self.public,
            sub=subject,
            ts=moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            nonce=nonce or secrets.token_urlsafe(_NONCE_BYTES),
        )
        sig = base64.urlsafe_b64encode(self._pair.sign(signed_input(unsigned, payload)))
        signed = msgspec.structs.replace(unsigned, sig=sig.rstrip(b"=").decode())
        return {subjects.SENDER: msgspec.json.encode(signed).decode()}


def new_seed() -> bytes:
    """Make the seed of a new user's nkey."""
    import nkeys

    made: bytes = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    return made


def read_key(path: str) -> Key:
    """Read a key from a file with a seed, or from a NATS credentials file.

    Raises credentials.CredentialsError where the file is of no use, or open to others.
    """
    from protocol import credentials

    held = credentials.read_secret("signing key", path).decode("utf-8", "replace")
    try:
        seed = _block(held, "BEGIN USER NKEY SEED") or held
        token = _block(held, "BEGIN NATS USER JWT")
        return Key(seed, _account(token) if token else NO_ACCOUNTS)
    except NotAKey as error:
        raise credentials.FileUnusable("signing key", path, str(error)) from None


def parse(value: str) -> Sender | None:
    """Read a header; one of another version says nothing. Raises Malformed."""
    data = value.encode("utf-8", "replace")
    if len(data) > _MAX_BYTES:
        raise Malformed(f"it has more than {_MAX_BYTES} bytes")
    try:
        if msgspec.json.decode(data, type=_Version).v != VERSION:
            return None
        sender = msgspec.json.decode(data, type=Sender)
        if sender.ts is not None:
            _ = sender.at
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(_reason(error)) from None
    if sender.sig is not None and not (sender.sub and sender.ts and sender.nonce):
        raise Malformed("`sig` needs `sub`, `ts` and `nonce`")
    return sender


def signed_input(sender: Sender, payload: bytes) -> bytes:
    """Give the bytes that are signed; they are never sent."""
    digest = hashlib.sha256(payload).hexdigest()
    parts = (_TAG, sender.account, sender.user, sender.sub, sender.ts, sender.nonce, digest)
    return "".join(f"{part}\n" for part in parts).encode()


def holds(sender: Sender, payload: bytes) -> bool:
    """Tell whether the signature is the key's own over this payload."""
    import nacl.exceptions
    import nacl.signing

    signature = base64.urlsafe_b64decode(f"{sender.sig}==")
    try:
        key = nacl.signing.VerifyKey(public_bytes(sender.user))
        key.verify(signed_input(sender, payload), signature)
    except (NotAKey, nacl.exceptions.BadSignatureError):
        return False
    return True


@functools.lru_cache(maxsize=256)
def public_bytes(public: str) -> bytes:
    """Give the 32 bytes of a user's public key; raise NotAKey."""
    import nkeys

    try:
        raw = _checked(public.encode())
    except ValueError:
        raise NotAKey("the public key") from None
    if raw[0] != nkeys.PREFIX_BYTE_USER or len(raw) != 1 + 32:
        raise NotAKey("the public key")
    return raw[1:]


def _checked(text: bytes) -> bytes:
    """Decode an nkey's text; raise ValueError if its checksum is wrong."""
    import nkeys

    try:
        raw = base64.b32decode(text + b"=" * (-len(text) % 8))
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if len(raw) <= _CHECKSUM or nkeys.crc16_checksum(raw[:-_CHECKSUM]) != raw[-_CHECKSUM:]:
        raise ValueError
    return raw[:-_CHECKSUM]


def _block(text: str, title: str) -> str:
    """Give the line that follows a title in a credentials file; nothing where it has none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    places = [at for at, line in enumerate(lines[:-1]) if title in line]
    return lines[places[0] + 1] if places else ""


class _Issued(msgspec.Struct, frozen=True):
    issuer_account: str = ""


class _Claims(msgspec.Struct, frozen=True):
    iss: str = NO_ACCOUNTS
    nats: _Issued = _Issued()


def _account(token: str) -> str:
    """Read the account out of a user's JWT, which the bus has checked."""
    try:
        body = token.split(".")[1]
        claims = msgspec.json.decode(
            base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=_Claims
        )
    except (IndexError, ValueError, msgspec.MsgspecError):
        raise NotAKey("the JWT") from None
    return claims.nats.issuer_account or claims.iss


def _reason(error: Exception) -> str:
    """Say what is wrong with a header without repeating it."""
    if isinstance(error, msgspec.MsgspecError):
        return str(error)[:200]
    return "it is nested too deeply" if isinstance(error, RecursionError) else "`ts` is no time"
