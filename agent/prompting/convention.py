"""Owns the words of the Synadia Agent Protocol for NATS, version 0.3: subjects, prompts, chunks.

The section numbers are those of the protocol's text, as its own packages cite them.
"""

from __future__ import annotations

import datetime as dt
import re

import msgspec

from protocol import codec, problems

SERVICE = "agents"
"""The services framework's name, and the queue group, of every agent of the convention (3.1)."""
VERSION = "0.3"
AGENT = "mlpm"
HEARTBEAT_S = 10
"""Whoever misses three of them takes the agent for gone (8.2)."""
INBOX = "_INBOX.agents"
"""Below it callers answer queries, and not where replies to the agent's own requests come."""
END = b""
"""The terminator: no body, no headers (6.5)."""
MOST_TEXT = 16_384
"""Characters of a chunk's text; what is longer is attached."""
MOST_HEADER = 300

_NOT_IN_A_TOKEN = re.compile(r"[^a-z0-9_-]")


class NotText(codec.ProtocolError):
    """A prompt is neither a JSON object nor text."""

    def __init__(self, reason: str) -> None:
        message = f"the prompt is neither a JSON object nor UTF-8 text: {reason}"
        hint = "send text, or an object with `prompt`"
        super().__init__([problems.Problem("invalid_json", message, path="$", hint=hint)])


class Attachment(msgspec.Struct, frozen=True):
    """A file beside a text; Base64 on the wire (5.2)."""

    filename: str
    content: bytes


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A prompt, or the answer to a query (5.1); fields that are not known are ignored (5.6)."""

    prompt: str
    attachments: list[Attachment] | None = None


class Place(msgspec.Struct, frozen=True):
    """Where an agent is found: the last three tokens of its subjects (2)."""

    owner: str
    session: str
    agent: str = AGENT

    def subject(self, verb: str) -> str:
        """Name the subject of `prompt`, `status` or `hb`."""
        return f"agents.{verb}.{self.agent}.{self.owner}.{self.session}"


def owner_of(prefix: str) -> str:
    """Make an owner's token of the bus's prefix, so that two systems on a bus stay apart."""
    return _NOT_IN_A_TOKEN.sub("-", prefix.lower())


def read(data: bytes, max_bytes: int) -> Envelope:
    """Read a prompt: an object where it begins with a brace, else text (5.3).

    Raises codec.ProtocolError.
    """
    if len(data) > max_bytes:
        raise codec.PayloadTooLarge(len(data), max_bytes)
    if data.lstrip(b" \t\r\n").startswith(b"{"):
        return codec.decode(data, Envelope)
    try:
        return Envelope(data.decode())
    except UnicodeDecodeError as error:
        raise NotText(str(error)) from error


def status(state: str) -> bytes:
    """Write a status chunk (6.4)."""
    return _chunk("status", state)


def response(text: str, attached: list[Attachment]) -> bytes:
    """Write a response chunk (6.3)."""
    return _chunk("response", {"text": text, "attachments": attached} if attached else text)


def query(name: str, reply_subject: str, prompt: str) -> bytes:
    """Write a question to the caller (7.1)."""
    return _chunk("query", {"id": name, "reply_subject": reply_subject, "prompt": prompt})


def heartbeat(place: Place, instance: str, at: dt.datetime) -> bytes:
    """Write a heartbeat, which is also what `status` answers (8.3)."""
    told = {
        "agent": place.agent,
        "owner": place.owner,
        "session": place.session,
        "instance_id": instance,
        "ts": at.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "interval_s": HEARTBEAT_S,
        "protocol_version": VERSION,
    }
    return msgspec.json.encode(told)


def header(text: str) -> str:
    """Make a text fit a header: one short line of plain characters (9.1)."""
    plain = " ".join(text.split()).encode("ascii", "replace").decode()
    return plain if len(plain) <= MOST_HEADER else f"{plain[: MOST_HEADER - 3]}..."


def cut(text: str) -> str:
    """Shorten a text that is too long for a chunk."""
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"


def _chunk(kind: str, data: object) -> bytes:
    return msgspec.json.encode({"type": kind, "data": data})
