"""Owns an event's attributes as CloudEvents 1.0 headers, in binary mode over NATS."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping

import msgspec

from protocol import codec, events, problems

SPEC_VERSION = "1.0"
TYPE_PREFIX = "codeguardian.ml."
# What may stand in a header value as it is: printable ASCII but space, quote and percent.
_PLAIN = re.compile(r"[A-Za-z0-9_./:-]*")
"""What needs no quoting, as nearly everything does not."""
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class MissingAttribute(codec.ProtocolError):
    """A message lacks a header that every CloudEvent has."""

    def __init__(self, name: str) -> None:
        self.name = name
        message = f"the header ce-{name} is missing"
        super().__init__([problems.Problem("invalid_field", message, path="$")])


class Announced(msgspec.Struct, frozen=True):
    """An event with its place in the journal."""

    id: str
    source: str
    run_id: str
    event: events.AnyEvent


def type_of(event: events.AnyEvent) -> str:
    """Give the event's type, as `stage.succeeded`."""
    return str(event.__struct_config__.tag)


def token(event: events.AnyEvent) -> str:
    """Give the last token of the event's subject, as `succeeded`."""
    return type_of(event).rpartition(".")[2]


def event_id(run_id: str, commit: int, index: int) -> str:
    """Name an event by its place, so that the same event always has the same id."""
    return f"{run_id}-{commit}-{index}"


def write(commit: events.Commit, index: int) -> tuple[dict[str, str], bytes]:
    """Give headers and body of one event of a commit; `index` counts from 0."""
    event = commit.events[index]
    attributes = {
        "specversion": SPEC_VERSION,
        "id": event_id(commit.run_id, commit.number, index),
        "source": f"/ml-pipeline-manager/{commit.owner}",
        "type": TYPE_PREFIX + type_of(event),
        "subject": f"{commit.run_id}/{event.scope}",
        "time": event.at.isoformat().replace("+00:00", "Z"),
    }
    headers = {f"ce-{name}": _quote(value) for name, value in attributes.items()}
    return {**headers, "Content-Type": codec.JSON}, codec.encode(event)


def read(headers: Mapping[str, str] | None, body: bytes) -> Announced:
    """Read an announced event. Raises ProtocolError."""
    lowered = {name.lower(): value for name, value in (headers or {}).items()}
    values = {}
    for name in ("specversion", "id", "source", "type", "subject"):
        if f"ce-{name}" not in lowered:
            raise MissingAttribute(name)
        values[name] = urllib.parse.unquote(lowered[f"ce-{name}"])
    kind: type[events.AnyEvent] = events.AnyEvent  # type: ignore[assignment]
    event = codec.decode(body, kind)
    run_id = values["subject"].partition("/")[0]
    return Announced(values["id"], values["source"], run_id, event)


def _quote(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return urllib.parse.quote(value, safe=_SAFE)
