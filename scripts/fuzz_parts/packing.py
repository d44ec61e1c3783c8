"""Owns the writing of documents as no writer would: JSON and MessagePack with everything odd."""

from __future__ import annotations

import json
import struct
from typing import Any


class Ext:
    """An extension value of MessagePack; JSON has none, and gets its code."""

    def __init__(self, code: int, data: bytes) -> None:
        self.code = code
        self.data = data


class Twice:
    """A map with one of its keys twice."""

    def __init__(self, first: dict[Any, Any], key: Any, value: Any) -> None:
        self.first = first
        self.key = key
        self.value = value

    def pairs(self) -> list[tuple[Any, Any]]:
        """Give all of its pairs."""
        return [*self.first.items(), (self.key, self.value)]


def as_json(value: Any) -> bytes:
    """Write JSON; NaN, infinities, lone surrogates and repeated keys are written as they are."""
    return _json(value).encode("ascii")


def _json(value: Any) -> str:
    match value:
        case Twice() | dict():
            pairs = value.pairs() if isinstance(value, Twice) else list(value.items())
            inner = ",".join(f"{json.dumps(_key(k))}:{_json(v)}" for k, v in pairs)
            return f"{{{inner}}}"
        case list() | tuple():
            return f"[{','.join(map(_json, value))}]"
        case Ext():
            return str(value.code)
        case bytes():
            return json.dumps(value.hex())
    return json.dumps(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(key)


def as_msgpack(value: Any) -> bytes:  # noqa: PLR0911 - a table of kinds
    """Write MessagePack; keys of any kind, extensions and text that is not UTF-8 included."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return _int(value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return b"\xdb" + struct.pack(">I", len(data)) + data
        case bytes():
            return b"\xc6" + struct.pack(">I", len(value)) + value
        case Ext():
            head = struct.pack(">BIb", 0xC9, len(value.data), value.code)
            return head + value.data
        case Twice():
            return _map(value.pairs())
        case dict():
            return _map(list(value.items()))
    return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(as_msgpack, value))


def _map(pairs: list[tuple[Any, Any]]) -> bytes:
    inner = b"".join(as_msgpack(k) + as_msgpack(v) for k, v in pairs)
    return b"\xdf" + struct.pack(">I", len(pairs)) + inner


def _int(value: int) -> bytes:
    if 0 <= value < 2**64:
        return b"\xcf" + struct.pack(">Q", value)
    if -(2**63) <= value < 0:
        return b"\xd3" + struct.pack(">q", value)
    return b"\xcb" + struct.pack(">d", float(value))
