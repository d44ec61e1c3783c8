"""Owns documents of the contract: made from the types that decode them, or of a sensible kind."""

from __future__ import annotations

import functools
import random
import string
from collections.abc import Callable
from typing import Any

from msgspec import inspect

_OPTIONAL = 0.25
"""How often a field that may be missing is there."""
_DEEPEST = 6
_SAFE = string.ascii_letters + string.digits + "_-"
_DIGEST = "sha256:" + "a" * 64
_PATTERNS: dict[str, Callable[[random.Random], str]] = {
    r"^[A-Za-z0-9_-]{1,64}$(?!\n)": lambda rng: word(rng, 64),
    r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_]{1,64})?$(?!\n)": lambda rng: rng.choice(
        ["s0", "s1.items", "s0.table", word(rng, 64)]
    ),
    r"^[a-z0-9_]+(\.[a-z0-9_]+)*$(?!\n)": lambda rng: rng.choice(
        ["fuzz.noop", "fuzz.items", "fuzz.fail", "ingest.table", "train.model", "no.such"]
    ),
    r"^[A-Za-z0-9_-]{1,64}\.[^\s]{1,128}$(?!\n)": lambda rng: f"s0.{word(rng, 20)}",
    r"^sha256:[0-9a-f]{64}$(?!\n)": lambda _: _DIGEST,
}
"""Texts of the contract's patterns; a new pattern must have its line here."""
_TIMES = [
    "2026-11-23T09:00:00Z",
    "2026-11-23T09:00:00.123456+14:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2026-11-23T09:00:00",
]


def word(rng: random.Random, longest: int = 12) -> str:
    """Make a subject-safe word."""
    return "".join(rng.choices(_SAFE, k=rng.choice([1, 3, 8, longest])))


def of(rng: random.Random, kind: Any) -> Any:
    """Make a document that decodes into a type."""
    return _made(rng, _info(kind), 0)


@functools.cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _made(rng: random.Random, kind: inspect.Type, depth: int) -> Any:
    match kind:
        case inspect.StructType():
            return _struct(rng, kind, depth)
        case inspect.UnionType(types=types):
            return _made(rng, rng.choice(types), depth)
        case inspect.ListType(item_type=item, min_length=least):
            count = rng.randint(least or 0, 3) if depth < _DEEPEST else (least or 0)
            return [_made(rng, item, depth + 1) for _ in range(count)]
        case inspect.DictType(key_type=key, value_type=value):
            count = rng.randint(0, 2) if depth < _DEEPEST else 0
            return {_made(rng, key, depth + 1): _made(rng, value, depth + 1) for _ in range(count)}
        case _:
            return _plain(rng, kind)


def _struct(rng: random.Random, kind: inspect.StructType, depth: int) -> dict[str, Any]:
    made = {} if kind.tag_field is None else {kind.tag_field: kind.tag}
    share = _OPTIONAL if depth < _DEEPEST else 0.0
    for field in kind.fields:
        if field.required or rng.random() < share:
            made[field.encode_name] = _made(rng, field.type, depth + 1)
    return made


def _plain(rng: random.Random, kind: inspect.Type) -> Any:  # noqa: PLR0911 - a table of kinds
    match kind:
        case inspect.StrType(pattern=str(pattern)):
            return _PATTERNS[pattern](rng)
        case inspect.StrType():
            return rng.choice([word(rng), "a b", "ä→😀", "x" * (kind.min_length or 1)])
        case inspect.LiteralType(values=values):
            return rng.choice(values)
        case inspect.IntType() | inspect.FloatType():
            return _number(rng, kind)
        case inspect.BoolType():
            return rng.random() < 0.5  # noqa: PLR2004 - a coin
        case inspect.DateTimeType():
            return rng.choice(_TIMES)
        case inspect.NoneType():
            return None
        case inspect.AnyType():
            return anything(rng)
    raise NotImplementedError(kind)


def _number(rng: random.Random, kind: inspect.IntType | inspect.FloatType) -> float:
    least = kind.ge if kind.ge is not None else (kind.gt or 0)
    most = kind.le if kind.le is not None else kind.lt
    if isinstance(kind, inspect.IntType):
        first = int(least) + (kind.gt is not None)
        return rng.choice([first, rng.randint(first, int(most or 2**53))])
    return round(rng.uniform(least + 0.001, most or 1000.0), 3)


def anything(rng: random.Random, depth: int = 0) -> Any:
    """Make a document of any kind."""
    if depth > 2 or rng.random() < 0.6:  # noqa: PLR2004 - small more often than large
        return rng.choice([None, True, 0, -1, 1.5, "", "text", "ä😀", 2**53, 10**40])
    if rng.random() < 0.5:  # noqa: PLR2004 - a coin
        return [anything(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return {word(rng): anything(rng, depth + 1) for _ in range(rng.randint(0, 3))}


_TREATMENTS: list[dict[str, Any]] = [
    {"for_each": {"items": "s0", "min_success": 0.5}, "inputs": {}},
    {"on_failure": "skip", "timeout_s": 0.2},
    {"on_failure": {"fallback": "s0"}},
    {"retry": {"max_attempts": 2, "backoff_s": 0.01, "jitter": 0.0}},
    {"resources": {"cpu": 0.1, "memory_bytes": 2**28}},
    {"when": {"metric": "s0.nothing", "op": ">", "value": 0}},
    {"timeout_s": 0.0},
    {"cache": "refresh", "seed": -1},
]


def pipeline(rng: random.Random) -> dict[str, Any]:
    """Make a pipeline that would be accepted: small stages in a chain, a gate here and there."""
    stages: list[dict[str, Any]] = [{"id": "s0", "use": rng.choice(["fuzz.noop", "fuzz.items"])}]
    for number in range(1, rng.randint(1, 4)):
        before = f"s{number - 1}"
        made: dict[str, Any] = {"id": f"s{number}", "use": "fuzz.noop"}
        made |= rng.choice([{"inputs": {"before": before}}, {"needs": [before]}])
        stages.append(made)
    for stage in stages:
        stage["placement"] = rng.choice(["agent"] * 8 + ["ray", "swarm"])
        stage.update(rng.choice([{}, {}, *_TREATMENTS]))
    if rng.random() < 0.2:  # noqa: PLR2004 - now and then
        stages[-1]["approval"] = {"prompt": "?", "timeout_s": 30.0}
    if rng.random() < 0.3:  # noqa: PLR2004 - now and then
        stages.append({"id": "wait", "use": "fuzz.wait", "placement": "agent"})
    if rng.random() < 0.1:  # noqa: PLR2004 - now and then
        stages.append({"id": "bad", "use": "fuzz.fail", "placement": "agent"})
    return {"name": "fuzzed", "stages": stages}


def request(rng: random.Random, request_id: str) -> dict[str, Any]:
    """Make a request that would be accepted."""
    made = {
        "request_id": request_id,
        "requester": "fuzz",
        "pipeline": pipeline(rng),
        "options": {"deadline_s": 60.0, "priority": rng.randint(0, 9), "cache": "off"},
    }
    if rng.random() < 0.05:  # noqa: PLR2004 - a template makes work: it looks at its data
        del made["pipeline"]
        made |= {"template": "tabular", "params": {"uri": "file:nothing.csv", "target": "t"}}
    return made
