"""Owns the JSON Schemas of the contract: one for every Struct, with its fields described."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec

from protocol import (
    artifacts,
    audit,
    commands,
    events,
    pipelines,
    problems,
    serving,
    swarm,
    trail,
    training,
    wire,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ROOMS: tuple[ModuleType, ...] = (
    commands,
    events,
    pipelines,
    training,
    serving,
    swarm,
    audit,
    trail,
    artifacts,
    problems,
)
UNIONS: dict[str, Any] = {"Event": events.AnyEvent, "TrainingReply": training.TrainingReply}
"""Kinds of message that are one of several Structs."""

_ABSTRACT = (events.Event, events.StageEvent)


@functools.cache
def structs() -> dict[str, type[msgspec.Struct]]:
    """Give every Struct of the contract by its name.

    An event that shares its name with a reply stands as `events.NAME`.
    """
    found: dict[str, type[msgspec.Struct]] = {}
    for room in ROOMS:
        short = room.__name__.rpartition(".")[2]
        for name, thing in vars(room).items():
            if _is_ours(thing, room):
                found[f"{short}.{name}" if name in found else name] = thing
    return found


def name_of(kind: type[msgspec.Struct]) -> str:
    """Give the name of a Struct in the contract."""
    return _names()[kind]


@functools.cache
def components(ref: str = "#/$defs/{name}") -> dict[str, Any]:
    """Give the schema of every Struct by name; `ref` says how one refers to another."""
    kinds = list(structs().values())
    _, found = msgspec.json.schema_components(kinds, ref_template="{name}")
    given = {_spelt(kind, found): kind for kind in kinds}
    made = {}
    for spelling, body in found.items():
        kind = given[spelling]
        described = _described(kind, body)
        made[name_of(kind)] = _linked(described, {s: name_of(k) for s, k in given.items()}, ref)
    return dict(sorted(made.items()))


def schema(name: str) -> dict[str, Any]:
    """Give the JSON Schema of a Struct or a union by name, complete in itself."""
    known = components()
    if name in UNIONS:
        members = [name_of(kind) for kind in UNIONS[name].__args__]
        top: dict[str, Any] = {
            "title": name,
            "anyOf": [{"$ref": f"#/$defs/{member}"} for member in members],
        }
    else:
        members = [name]
        top = {"$ref": f"#/$defs/{name}"}
    needed = _reached(members, known)
    return {"$schema": DIALECT, **top, "$defs": {one: known[one] for one in sorted(needed)}}


def _is_ours(thing: Any, room: ModuleType) -> bool:
    if not isinstance(thing, type) or thing in _ABSTRACT or thing.__module__ != room.__name__:
        return False
    return issubclass(thing, wire.Command | wire.Fact)


@functools.cache
def _names() -> dict[type[msgspec.Struct], str]:
    return {kind: name for name, kind in structs().items()}


def _spelt(kind: type[msgspec.Struct], found: dict[str, Any]) -> str:
    # msgspec spells out the module where two Structs share a name.
    full = f"{kind.__module__}.{kind.__qualname__}"
    return full if full in found else kind.__name__


def _described(kind: type[msgspec.Struct], body: dict[str, Any]) -> dict[str, Any]:
    told = _told(kind)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    properties = {}
    for name, given in body.get("properties", {}).items():
        about = told.get(fields[name].name) if name in fields else None
        timed = _timed(given, fields[name].type) if name in fields else given
        properties[name] = {**timed, **({"description": about} if about else {})}
    made = {**body, "properties": properties}
    if kind is commands.PipelineRequest:
        made["oneOf"] = [_given("pipeline"), _given("template")]
    return made


def _given(name: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _timed(given: dict[str, Any], annotation: Any) -> dict[str, Any]:
    """Mark a time as one: msgspec leaves the format out where an offset is not demanded."""
    kind = msgspec.inspect.type_info(annotation)
    if isinstance(kind, msgspec.inspect.DateTimeType):
        return {**given, "format": "date-time"}
    inner = kind.types if isinstance(kind, msgspec.inspect.UnionType) else ()
    if not any(isinstance(one, msgspec.inspect.DateTimeType) for one in inner):
        return given
    choices = [
        {**one, "format": "date-time"} if one.get("type") == "string" else one
        for one in given["anyOf"]
    ]
    return {**given, "anyOf": choices}


def _told(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Read what stands under each field, of the class and those it extends."""
    told: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if cls.__module__.startswith("protocol."):
            told |= _field_texts(inspect.getmodule(cls)).get(cls.__name__, {})
    return told


@functools.cache
def _field_texts(module: ModuleType) -> dict[str, dict[str, str]]:
    tree = ast.parse(inspect.getsource(module))
    return {node.name: dict(_texts(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            yield field.target.id, " ".join(ast.literal_eval(text.value).split())


def _linked(value: Any, names: dict[str, str], ref: str) -> Any:
    """Write every reference in the wanted form; leave out what only OpenAPI understands."""
    if isinstance(value, list):
        return [_linked(one, names, ref) for one in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("$ref"), str):
        value = {**value, "$ref": ref.format(name=names[value["$ref"]])}
    kept = {k: v for k, v in value.items() if not (k == "discriminator" and "anyOf" in value)}
    return {key: _linked(one, names, ref) if key != "$ref" else one for key, one in kept.items()}


def _reached(names: list[str], known: dict[str, Any]) -> set[str]:
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _references(known[name])
    return seen


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for one in value for name in _references(one)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"].rpartition("/")[2]] if isinstance(value.get("$ref"), str) else []
    return own + [name for one in value.values() for name in _references(one)]
