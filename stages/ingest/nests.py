"""Owns the way from a JSON document to rows: the path to its records, and nests opened by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, Final

from stages import kit

MISSING: Final = object()
_LONGEST = 1_000
_WIDEST = 10_000
_NAMED = 10


class NoRecords(kit.DataFault):
    """There is no list of objects where the records should be."""

    def __init__(self, path: str, found: str, hint: str) -> None:
        place = f"at {path!r} of the answer" if path else "at the top of the answer"
        super().__init__(f"{place} {found}", hint=hint, path="$.records")


class TooWide(kit.DataFault):
    """A record, once it is opened, has more values or longer names than columns are made of."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"a record, once it is opened, has {found}",
            hint="lower depth, so that nested objects are kept as JSON text",
            path="$.depth",
        )


class NameTwice(kit.DataFault):
    """Two values of a record come under one name, as `a.b` and the `b` of `a`."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"two values of a record come under the name {name!r}",
            hint="lower depth, so that nested objects are kept as JSON text",
            path="$.depth",
        )


def at(body: Any, path: str) -> Any:
    """Give what is at a path as `data.items` or `pages.0.rows`, or MISSING."""
    for step in path.split(".") if path else ():
        if isinstance(body, dict):
            body = body.get(step, MISSING)
        elif isinstance(body, list) and step.isdecimal() and int(step) < len(body):
            body = body[int(step)]
        else:
            return MISSING
    return body


def listed(body: Any, path: str) -> list[dict[str, Any]]:
    """Give the records at a path of a page. Raises NoRecords."""
    found = at(body, path)
    if found is MISSING:
        raise NoRecords(path, "there is nothing", _near(body, path))
    if not isinstance(found, list):
        hint = _near(found, "") if isinstance(found, dict) else "name the path to a list in records"
        raise NoRecords(path, f"there is {_kind(found)} and no list", hint)
    for place, each in enumerate(found):
        if not isinstance(each, dict):
            said = f"the record {place} is {_kind(each)} and no object"
            raise NoRecords(path, said, "name the path to a list of objects in records")
    return found


def _near(body: Any, path: str) -> str:
    """Name what there is at the last step of a path that leads somewhere."""
    before, _, last = path.rpartition(".")
    there = at(body, before)
    if not isinstance(there, dict):
        return _near(body, before) if before else "the answer is no object: leave records empty"
    if close := difflib.get_close_matches(last, there, n=3):
        return "did you mean " + " or ".join(repr(name[:40]) for name in close) + "?"
    names = ", ".join(name[:40] for name in list(there)[:_NAMED])
    return f"there is {names}" if names else "the object there is empty"


def _kind(found: Any) -> str:
    if found is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(found), "a number")


def flat(record: dict[str, Any], depth: int) -> dict[str, Any]:
    """Open nested objects by names with dots to a depth; keep what is deeper, and lists, as JSON.

    Raises TooWide or NameTwice.
    """
    found: dict[str, Any] = {}
    for name, value in _opened(record, depth, ""):
        if name in found:
            raise NameTwice(name[:100])
        if len(found) == _WIDEST:
            raise TooWide(f"more than {_WIDEST} values")
        found[name] = value
    return found


def _opened(record: dict[str, Any], depth: int, before: str) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        name = before + key
        if len(name) > _LONGEST:
            raise TooWide(f"the name {name[:40]!r}… of more than {_LONGEST} characters")
        if isinstance(value, dict) and depth > 0:
            yield from _opened(value, depth - 1, name + ".")
        else:
            yield name, json.dumps(value) if isinstance(value, dict | list) else value
