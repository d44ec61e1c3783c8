"""Owns the slow path of decoding: every problem of a raw document against a type, with paths."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from protocol import problems

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST = 1_000
"""Of what the decoder says, which may repeat a value."""


def diagnose(raw: Any, kind: Any, path: str = "$") -> list[problems.Problem]:
    """Find what keeps `raw`, made of plain dicts and lists, from being of that type."""
    found: list[problems.Problem] = []
    for problem in _walk(raw, kind, path):
        found.append(problem)
        if len(found) == problems.MAX_PROBLEMS:
            break
    return found


def from_error(
    error: msgspec.ValidationError, path: str, hint: str | None = None
) -> problems.Problem:
    """Say what the decoder said, at a path of ours."""
    reason = str(error).partition(" - at `")[0][:_LONGEST]
    return problems.Problem("invalid_field", reason, path=path, hint=hint)


def _walk(raw: Any, kind: Any, path: str) -> Iterator[problems.Problem]:
    try:
        msgspec.convert(raw, kind, str_keys=True)
    except msgspec.ValidationError as error:
        inner = _inside(raw, _variant(raw, _bare(kind)), path)
        first = next(inner, None)  # one by one: of very many the first few are wanted
        if first is None:
            yield from_error(error, path, _meant(raw, kind))
        else:
            yield first
            yield from inner


def _inside(raw: Any, kind: Any, path: str) -> Iterator[problems.Problem]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(raw, dict) and _is_struct(kind):
        yield from _fields(raw, kind, path)
    elif isinstance(raw, dict) and origin is dict:
        for key, value in raw.items():
            yield from _walk(key, arguments[0], _at(path, key))
            yield from _walk(value, arguments[1], _at(path, key))
    elif isinstance(raw, list | tuple) and origin in {list, tuple, set, frozenset}:
        if origin is tuple and arguments[1:] != (Ellipsis,):
            return
        for index, value in enumerate(raw):
            yield from _walk(value, arguments[0], f"{path}[{index}]")


def _fields(raw: dict[Any, Any], kind: Any, path: str) -> Iterator[problems.Problem]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in raw.items():
        if key in fields:
            yield from _walk(value, hints[fields[key].name], _at(path, key))
        elif kind.__struct_config__.forbid_unknown_fields and key != _tag_field(kind):
            hint = near(key, fields) or f"known: {', '.join(sorted(fields))}"
            message = f"unknown field {str(key)[:80]!r}"
            yield problems.Problem("unknown_field", message, path=_at(path, key), hint=hint)
    for name, field in fields.items():
        if field.required and name not in raw:
            message = f"required field {name!r} is missing"
            yield problems.Problem("invalid_field", message, path=_at(path, name))


def near(given: Any, known: Iterable[str]) -> str | None:
    """Suggest the known name that resembles the given one."""
    match = difflib.get_close_matches(str(given)[:80], list(known), n=1)
    return f"did you mean {match[0]!r}?" if match else None


def _meant(raw: Any, kind: Any) -> str | None:
    names = [
        name
        for one in _alternatives(_bare(kind))
        if typing.get_origin(one) is typing.Literal
        for name in typing.get_args(one)
    ]
    return (near(raw, names) or f"one of: {', '.join(map(str, names))}") if names else None


def _variant(raw: Any, kind: Any) -> Any:
    options = _alternatives(kind)
    if isinstance(raw, dict):
        structs = [one for one in options if _is_struct(one)]
        tagged = [
            one for one in structs if _tag_field(one) and _tag(one) == raw.get(_tag_field(one))
        ]
        maps = [one for one in options if typing.get_origin(one) is dict]
        untagged = [one for one in structs if not _tag_field(one)]
        return next(iter(tagged or untagged or maps), None)
    wanted = {list, tuple, set, frozenset}
    return next((one for one in options if typing.get_origin(one) in wanted), None)


def _alternatives(kind: Any) -> list[Any]:
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return [_bare(one) for one in typing.get_args(kind)]
    return [kind]


def _bare(kind: Any) -> Any:
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    return kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _tag_field(kind: Any) -> Any:
    return kind.__struct_config__.tag_field


def _tag(kind: Any) -> Any:
    return kind.__struct_config__.tag


def _at(path: str, key: Any) -> str:
    text = str(key)
    if _PLAIN.fullmatch(text):
        return f"{path}.{text[:128]}"
    return f"{path}[{text[:128]!r}]"
