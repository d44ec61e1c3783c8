"""Owns what is done to good documents and good bytes to make them bad."""

from __future__ import annotations

import copy
import gzip
import random
from collections.abc import Callable
from typing import Any

from scripts.fuzz_parts import documents, packing

_ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**40),
    *(1e308, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324),
    *("", " ", "\x00", "\n", "a\r\nb", "ä", "😀", "\ud800", "\udfff\ud800", "%s%n", "../../etc"),
    *("*", ">", "a.b", "$JS.API", "x" * 65, "null", "NaN", "1", "true", "\u2028", "\ufeff"),
    *("x" * 5_000, [], {}, [[]], {"": {}}, [None] * 50, {"a": [{}]}),
    *("2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "1e999", "P1D", "file:/etc/passwd"),
    *("drain", "ray", "agent", "swarm", "fuzz.noop", "fuzz.items", "ingest.table", "run", "s0"),
]
_ODDER: list[Any] = [
    *(packing.Ext(5, b"abc"), packing.Ext(-1, b"\0\0\0\0"), packing.Ext(-1, b"abc")),
    *(b"bytes", b"\xff\xfe", {1: 2}, {None: 1}, {b"k": 1}, {True: 0}, {1.5: {}}),
    {(1, 2): 3},
]
"""What MessagePack alone can carry."""


def mutate(rng: random.Random, document: Any, times: int) -> Any:
    """Change a copy of a document in so many places."""
    changed = copy.deepcopy(document)
    for _ in range(times):
        changed = _once(rng, changed)
    return changed


def odd(rng: random.Random) -> Any:
    """Give a value that few expect."""
    if rng.random() < 0.1:  # noqa: PLR2004 - now and then
        return _nested(rng)
    return copy.deepcopy(rng.choice(_ODD if rng.random() < 0.85 else _ODDER))  # noqa: PLR2004


def _nested(rng: random.Random) -> Any:
    made: Any = 0
    kind = rng.random() < 0.5  # noqa: PLR2004 - a coin
    for _ in range(rng.choice([10, 62, 66, 150])):
        made = [made] if kind else {"a": made}
    return made


def _once(rng: random.Random, document: Any) -> Any:
    holders = [place for place in _places(document) if place]
    if not holders:
        return odd(rng)
    holder = rng.choice(holders)
    change: Callable[[random.Random, Any], None] = rng.choice(
        _OF_MAPS if isinstance(holder, dict) else _OF_LISTS
    )
    if rng.random() < 0.03:  # noqa: PLR2004 - a key twice can only be written, not held
        return _doubled(rng, document)
    change(rng, holder)
    return document


def _places(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [value, *(p for v in value.values() for p in _places(v))]
    if isinstance(value, list):
        return [value, *(p for v in value for p in _places(v))]
    return []


def _doubled(rng: random.Random, document: Any) -> Any:
    if not isinstance(document, dict) or not document:
        return document
    key = rng.choice(list(document))
    return packing.Twice(document, key, odd(rng))


def _replace(rng: random.Random, holder: dict[Any, Any]) -> None:
    holder[rng.choice(list(holder))] = odd(rng)


def _drop(rng: random.Random, holder: dict[Any, Any]) -> None:
    del holder[rng.choice(list(holder))]


def _add(rng: random.Random, holder: dict[Any, Any]) -> None:
    names = ["extra", "", "ä", "\ud800", "__class__", "a" * 300, "x\ny", documents.word(rng)]
    holder[rng.choice(names)] = odd(rng)


def _rename(rng: random.Random, holder: dict[Any, Any]) -> None:
    key = rng.choice(list(holder))
    holder[f"{key}{rng.choice(['s', ' ', '_', ''])}"] = holder.pop(key)


def _number_key(rng: random.Random, holder: dict[Any, Any]) -> None:
    holder[rng.choice([1, b"b", None, 2.5])] = odd(rng)


def _stretch(rng: random.Random, holder: dict[Any, Any]) -> None:
    key = rng.choice(list(holder))
    if isinstance(holder[key], str):
        holder[key] = holder[key] + rng.choice(["\n", ".", " ", "é", "\0", "x" * 200])
    elif isinstance(holder[key], int | float):
        holder[key] = str(holder[key])
    else:
        holder[key] = [holder[key]]


def _swap(rng: random.Random, holder: list[Any]) -> None:
    holder[rng.randrange(len(holder))] = odd(rng)


def _repeat(rng: random.Random, holder: list[Any]) -> None:
    holder += [copy.deepcopy(rng.choice(holder))] * rng.choice([1, 2, 30])


def _shorten(rng: random.Random, holder: list[Any]) -> None:
    del holder[rng.randrange(len(holder)) :]


_OF_MAPS = [_replace, _replace, _replace, _drop, _add, _rename, _number_key, _stretch]
_OF_LISTS = [_swap, _repeat, _shorten]


def spoil(rng: random.Random, data: bytes) -> bytes:
    """Make bytes into others."""
    place = rng.randrange(len(data) + 1)
    junk = rng.randbytes(rng.choice([1, 4, 30]))
    return rng.choice(
        [
            lambda: data[:place],
            lambda: data[place:],
            lambda: data[:place] + junk + data[place:],
            lambda: data[:place] + junk + data[place + len(junk) :],
            lambda: data + data,
            lambda: data + b"\n\n",
            lambda: b"\xef\xbb\xbf" + data,
            lambda: gzip.compress(data, mtime=0),
            lambda: data.decode("latin-1").encode("utf-16"),
            lambda: data.replace(b'"', b"'"),
            lambda: data.replace(b":", b":" + b" " * 1000, 1),
        ]
    )()


def noise(rng: random.Random) -> bytes:
    """Give bytes that never were a document."""
    return rng.choice(
        [
            lambda: b"",
            lambda: rng.randbytes(rng.choice([1, 2, 16, 300])),
            lambda: rng.choice([b"[", b'{"a":', b"\x81\xa1a"]) * rng.choice([1, 70, 5_000]),
            lambda: rng.choice([b"null", b"NaN", b"-", b'""', b"[]", b"{}", b"0", b"1e999"]),
            lambda: b"\xdd\xff\xff\xff\xff" + rng.randbytes(8),
            lambda: b"\xc9\xff\xff\xff\xff\x05",
            lambda: b"1" * rng.choice([20, 5_000]),
            lambda: b'"' + rng.randbytes(20) + b'"',
        ]
    )()
