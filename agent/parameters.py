"""Owns the description of a struct's fields for people: JSON Schema with the fields' own docs."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import sys
import textwrap
from typing import Any

import msgspec

from agent import syntax


class Parameter(msgspec.Struct, frozen=True):
    """One parameter in words."""

    name: str
    type: str
    default: str
    """As JSON; empty where the parameter must be given."""
    about: str


def schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Give the JSON Schema of a struct; what stands under a field describes it."""
    made: dict[str, Any] = msgspec.json.schema(struct)
    home = vars(sys.modules[struct.__module__])
    for name, definition in made.get("$defs", {}).items():
        cls = struct if name == struct.__name__ else home.get(name)
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct):
            _describe(definition, field_docs(cls), cls)
    return made


def _describe(definition: dict[str, Any], docs: dict[str, str], cls: type[msgspec.Struct]) -> None:
    if "description" in definition:
        definition["description"] = inspect.cleandoc(definition["description"])
    names = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    for field, text in docs.items():
        shown = definition.get("properties", {}).get(names.get(field, ""))
        if shown is not None:
            shown["description"] = text


@functools.cache
def field_docs(struct: type) -> dict[str, str]:
    """Read the text under each field, of base classes too."""
    found: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        if issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct:
            found |= _own_docs(cls)
    return found


def _own_docs(cls: type) -> dict[str, str]:
    try:
        tree = syntax.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}  # made without a source file
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            told = _text(text)
            if told is not None:
                found[field.target.id] = " ".join(told.split())
    return found


def _text(node: ast.stmt) -> str | None:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    value = node.value.value if is_text else None  # type: ignore[attr-defined]
    return value if isinstance(value, str) else None


def listed(made: dict[str, Any]) -> list[Parameter]:
    """Put a schema's parameters into words."""
    definitions = made.get("$defs", {})
    top = _resolved(made, definitions)
    required = top.get("required", [])
    return [
        Parameter(
            name,
            _type(each, definitions),
            "" if name in required else _json(each.get("default")),
            each.get("description", ""),
        )
        for name, each in top.get("properties", {}).items()
    ]


def about(made: dict[str, Any]) -> str:
    """Give what a schema says of the whole."""
    return str(_resolved(made, made.get("$defs", {})).get("description", ""))


def _resolved(made: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in made:
        return made
    found: dict[str, Any] = definitions[made["$ref"].rpartition("/")[2]]
    return found


def _type(made: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Write a type as `text`, `number > 0`, `list of text`, `one of a, b`, `{name: number}`."""
    if "$ref" in made:
        name = made["$ref"].rpartition("/")[2]
        inner = definitions[name]
        return _type(inner, definitions) if "enum" in inner else name
    if "anyOf" in made:
        kinds = (_type(each, definitions) for each in made["anyOf"] if each.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in made:
        return "one of " + ", ".join(map(str, made["enum"]))
    return _plain_type(made, definitions)


def _plain_type(made: dict[str, Any], definitions: dict[str, Any]) -> str:
    kind = made.get("type")
    if kind == "array":
        return f"list of {_type(made['items'], definitions)}" if made.get("items") else "list"
    if kind == "object":
        inner = made.get("additionalProperties")
        return f"{{name: {_type(inner, definitions)}}}" if isinstance(inner, dict) else "object"
    return _WORDS.get(str(kind), "anything") + _bounds(made)


_WORDS = {"string": "text", "number": "number", "integer": "integer", "boolean": "true or false"}
_LIMITS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}


def _bounds(made: dict[str, Any]) -> str:
    return ",".join(f" {sign} {made[key]}" for key, sign in _LIMITS.items() if key in made)


def _json(value: Any) -> str:
    return "none" if value is None else msgspec.json.encode(value).decode()
