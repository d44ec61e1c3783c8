"""Owns header blocks, good and bad, as they are on the wire."""

from __future__ import annotations

import random

FIRST = b"NATS/1.0\r\n"
_TYPES = [
    *("application/json", "application/msgpack", "application/json; charset=utf-8"),
    *("APPLICATION/MSGPACK", "text/xml", "", " ", ";", "application/x-msgpack", "a" * 300),
    *("application/vnd.x+json", "application/gzip", "ä", "text/json\tx", "application/json,x"),
]
_TRACES = [
    *("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-xyz", "", "00-" + "A" * 32, "x" * 3_000),
    *("00-" + "a" * 32 + "-" + "b" * 16 + "-01\n", "😀", "00-\x00"),
]
_OTHERS = [
    *("Nats-Msg-Id: x", "Nats-Expected-Last-Sequence: 1", "Nats-Rollup: all", "Nats-TTL: 1s"),
    *("Nats-Expected-Stream: other", "Nats-Expected-Last-Subject-Sequence: 0", "Nats-TTL: never"),
    *("Nats-Service-Error: x", "Nats-Service-Error-Code: 500", "Nats-Schedule: @every 1s"),
    *("Nats-Batch-Id: b", "Nats-Batch-Sequence: 1", "Nats-Incr: 5", "Nats-Sequence: 7"),
    *("Status: 404", "Status: 503", "Status: 100", "Description: x", "Nats-Stream: x"),
    *("Dead-Subject: x", "Dead-Code: x", "ce-id: x", "ce-type: x", "X: " + "y" * 4_000),
    *("no colon", ": no name", "a b: c", "X:", "X: \u2028", "Ä: ö", "X: a\rb", "X: a\nb"),
]
_STRANGE = [
    *(b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 404 No Messages\r\n\r\n", b"NATS/1.0 100\r\n\r\n"),
    *(b"NATS/1.0 \xff\xfe\r\n\r\n", b"NATS/1.0 abc\r\nX: y\r\n\r\n", b"NATS/9.9\r\nX: y\r\n\r\n"),
    *(b"NATS/1.0", b"NATS/1.0\r\n", b"NATS/1.0\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"\r\n\r\n"),
    *(b"NATS/1.0 404 \xff\xff\r\n\r\n", b"NATS/1.0 100 \xe4\r\nX: y\r\n\r\n", b"\x00" * 12),
    *(b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n", b"NATS/1.0\r\n\xff: x\r\n\r\n", b"NATS/1.0\r\nX: y"),
]


def block(fields: dict[str, str]) -> bytes:
    """Write a block of good fields; none is no block."""
    if not fields:
        return b""
    return FIRST + b"".join(f"{k}: {v}\r\n".encode() for k, v in fields.items()) + b"\r\n"


def odd(rng: random.Random, content_type: str | None) -> bytes:
    """Make a block with something odd in it."""
    if rng.random() < 0.2:  # noqa: PLR2004 - one in five is none at all
        return rng.choice(_STRANGE)
    lines = [f"Content-Type: {content_type}"] if content_type else []
    lines += [_line(rng) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.02:  # noqa: PLR2004 - now and then
        lines += [f"X-{n}: {'y' * 200}" for n in range(rng.choice([20, 4_000]))]
    rng.shuffle(lines)
    return FIRST + b"".join(f"{line}\r\n".encode() for line in lines) + b"\r\n"


def _line(rng: random.Random) -> str:
    return rng.choice(
        [
            lambda: f"Content-Type: {rng.choice(_TYPES)}",
            lambda: f"content-type: {rng.choice(_TYPES)}",
            lambda: f"traceparent: {rng.choice(_TRACES)}",
            lambda: rng.choice(_OTHERS),
        ]
    )()
