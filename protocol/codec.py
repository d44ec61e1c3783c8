"""Owns bytes <-> Struct: one decode when all is well, every problem with its path when not."""

from __future__ import annotations

import functools
import math
import re
from typing import Any, TypeVar

import msgspec

from protocol import commands, diagnosis, problems, wire

T = TypeVar("T")

JSON = "application/json"
MSGPACK = "application/msgpack"
MAX_BYTES = 1 << 20
MAX_DEPTH = 64
"""How deep a command may nest."""
_LEAST, _MOST = -(2**63), 2**64 - 1
_MANY_DIGITS = re.compile(rb"[0-9]{19}")

diagnose = diagnosis.diagnose


class ProtocolError(Exception):
    """A message is not of the contract."""

    def __init__(self, found: list[problems.Problem]) -> None:
        self.problem = problems.gather(found)
        self.problems = found
        super().__init__("; ".join(f"{one.path or '$'}: {one.message}" for one in found[:5]))


class PayloadTooLarge(ProtocolError):
    """The message has more bytes than are taken."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        message = f"the message has {size_bytes} bytes; at most {limit_bytes} are taken"
        hint = "send large data by reference"
        super().__init__([problems.Problem("payload_too_large", message, path="$", hint=hint)])


class Unreadable(ProtocolError):
    """The bytes are not JSON or MessagePack; the message says where they stop being so."""

    def __init__(self, content_type: str, reason: str) -> None:
        self.content_type = content_type
        message = f"not {content_type}: {reason}"
        super().__init__([problems.Problem("invalid_json", message, path="$")])


class Invalid(ProtocolError):
    """The message can be read but does not have the shape or values of the contract."""


class UnknownEncoding(ProtocolError):
    """The content type is neither JSON nor MessagePack."""

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        message = f"content type {content_type[:80]!r} is not known"
        hint = f"use {JSON} or {MSGPACK}"
        super().__init__([problems.Problem("invalid_field", message, path="$", hint=hint)])


class NotFinite(ProtocolError):
    """A number that JSON cannot carry stands in a message that is to be sent."""

    def __init__(self, kind: str) -> None:
        message = f"a {kind} holds NaN or an infinite number, which JSON cannot carry"
        super().__init__([problems.Problem("invalid_field", message, path="$")])


class NotPlain(ProtocolError):
    """A value stands in a command that could not be passed on, as it is, in every encoding."""

    def __init__(self, kind: str, what: str) -> None:
        message = f"a {kind} holds {what}, which not every encoding can carry"
        super().__init__([problems.Problem("invalid_field", message, path="$")])


def encode(message: msgspec.Struct, content_type: str | None = None) -> bytes:
    """Write a message. Raises NotFinite, so that nothing unreadable is ever stored."""
    if _normal(content_type) == MSGPACK:
        return msgspec.msgpack.encode(message)
    data = msgspec.json.encode(message)
    # msgspec writes NaN as null, which the reader of a float refuses.
    if b"null" in data:
        try:
            _decoder(type(message), JSON).decode(data)
        except msgspec.ValidationError as error:
            raise NotFinite(type(message).__name__) from error
    return data


def decode(data: bytes, kind: type[T], content_type: str | None = None, max_bytes: int = 0) -> T:
    """Read a message of a kind; `max_bytes` 0 means no limit. Raises ProtocolError."""
    if max_bytes and len(data) > max_bytes:
        raise PayloadTooLarge(len(data), max_bytes)
    chosen = _normal(content_type)
    wanted: Any = kind
    try:
        message: T = _decoder(wanted, chosen).decode(data)
    except msgspec.ValidationError as error:
        raise Invalid(_all_problems(data, kind, chosen, error)) from error
    except RecursionError as error:
        raise Unreadable(chosen, "it is nested too deeply") from error
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise Unreadable(chosen, str(error)) from error
    if isinstance(message, wire.Command):
        _check_command(message, data, chosen)
    return message


def _check_command(message: wire.Command, data: bytes, chosen: str) -> None:
    # Few brackets cannot nest deeply, nor few digits be too large a number; MessagePack has none
    # to count, and can carry what JSON cannot.
    deep = chosen == MSGPACK or data.count(b"[") + data.count(b"{") > MAX_DEPTH
    if deep or _MANY_DIGITS.search(data):
        _check_values(message, chosen)
    if isinstance(message, commands.PipelineRequest) and (found := exactly_one(message)):
        raise Invalid(found)


def exactly_one(request: commands.PipelineRequest) -> list[problems.Problem]:
    """Tell what is wrong unless exactly one of pipeline and template is given."""
    return _exactly_one(request.pipeline is not None, request.template is not None)


def _exactly_one(pipeline: bool, template: bool) -> list[problems.Problem]:
    if pipeline != template:
        return []
    given = "both are" if pipeline else "neither is"
    message = f"exactly one of `pipeline` and `template` is needed; {given} given"
    return [problems.Problem("invalid_field", message, path="$")]


def _all_problems(
    data: bytes, kind: Any, chosen: str, error: msgspec.ValidationError
) -> list[problems.Problem]:
    try:
        raw = msgspec.json.decode(data) if chosen == JSON else msgspec.msgpack.decode(data)
        found = diagnose(raw, kind)
    except RecursionError as deep:
        raise Unreadable(chosen, "it is nested too deeply") from deep
    except (msgspec.MsgspecError, ValueError, OverflowError) as broken:
        # Validation stopped before the decoder reached what is malformed.
        raise Unreadable(chosen, str(broken)) from broken
    if kind is commands.PipelineRequest and isinstance(raw, dict):
        found += _exactly_one(raw.get("pipeline") is not None, raw.get("template") is not None)
    return found or [diagnosis.from_error(error, "$")]


def _check_values(message: Any, chosen: str) -> None:
    stack = [(message, 0)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise Unreadable(chosen, f"it is nested deeper than {MAX_DEPTH}")
        if isinstance(value, float) and not math.isfinite(value):
            raise NotFinite(type(message).__name__)
        if what := _not_plain(value):
            raise NotPlain(type(message).__name__, what)
        stack += [(child, depth + 1) for child in _children(value)]


def _not_plain(value: Any) -> str | None:
    if isinstance(value, int) and not _LEAST <= value <= _MOST:
        return "a whole number of more than 64 bits"
    if isinstance(value, msgspec.msgpack.Ext):
        return "an extension value"
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        return "a map with other keys than texts"
    return None


def _children(value: Any) -> list[Any]:
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _normal(content_type: str | None) -> str:
    if not content_type:
        return JSON
    plain = content_type.partition(";")[0].strip().lower()
    if plain in {MSGPACK, "application/x-msgpack", "application/vnd.msgpack"}:
        return MSGPACK
    if plain in {JSON, "text/json"} or plain.endswith("+json"):
        return JSON
    raise UnknownEncoding(content_type)


@functools.cache
def _decoder(kind: Any, chosen: str) -> Any:
    if chosen == MSGPACK:
        return msgspec.msgpack.Decoder(kind)
    return msgspec.json.Decoder(kind)
