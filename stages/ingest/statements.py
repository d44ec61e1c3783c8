"""Owns what a query may be: one SELECT, with its parameters bound and never written into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stages import kit

Scalar = str | int | float | bool | None

_BEFORE = r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*(?!!).*?\*/)*"
"""What may stand before the first word; MySQL carries out what a comment `/*! … */` holds."""
_FIRST = re.compile(_BEFORE + r"(\w*)", re.DOTALL)
_TOKENS = re.compile(
    r"""(?P<kept> '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | --[^\n]* | /\*.*?\*/
        | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | :: )
      | (?<![\w:]) : (?P<name>[A-Za-z_]\w*)""",
    re.DOTALL | re.VERBOSE,
)
"""Texts, quoted names, comments and casts are kept as they are; what is left may be `:name`."""


class NotASelect(kit.NotAllowed):
    """A query is something else than a SELECT."""

    def __init__(self, word: str, path: str) -> None:
        super().__init__(
            f"a query begins with SELECT or WITH, and this one with {word[:40]!r}",
            hint="this stage reads only; let the database's own tools write",
            path=path,
        )


class ManyStatements(kit.NotAllowed):
    """A query has a semicolon within."""

    def __init__(self, path: str) -> None:
        super().__init__(
            "a query is one statement, and this one has a semicolon within",
            hint="bind a text that holds a semicolon as a parameter: `:name`, and params.name",
            path=path,
        )


class NotBound(kit.DataFault):
    """A query names a parameter that is not given."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(
            f"the query names a parameter :{name}, and it is not given",
            hint=f"give params.{name}; a colon that means something else stands in quotes",
            path=path,
        )


class NotNamed(kit.DataFault):
    """A parameter is given that no query names."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"no query names the parameter {name!r}",
            hint=f"write :{name} where its value belongs, without quotes",
            path=f"$.params.{name}",
        )


class Statement(NamedTuple):
    """One query, and the values of its parameters by name."""

    text: str
    params: dict[str, Scalar]


def one(query: str, params: Mapping[str, Scalar], path: str) -> Statement:
    """Take one SELECT and the parameters that it names; raise NotASelect, ManyStatements, NotBound.

    Any semicolon but the last is refused, in quotes too: databases differ in where quotes end.
    """
    text = query.rstrip().removesuffix(";").rstrip()
    first = _FIRST.match(text)
    word = first[1] if first else ""
    if word.lower() not in {"select", "with"}:
        raise NotASelect(word or text, path)
    if ";" in text:
        raise ManyStatements(path)
    names = _names(text)
    if missing := [name for name in names if name not in params]:
        raise NotBound(missing[0], path)
    return Statement(text, {name: params[name] for name in names})


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(found["name"] for found in _TOKENS.finditer(text) if found["name"]))


def require_named(params: Mapping[str, Scalar], *found: Statement | None) -> None:
    """Raise NotNamed for a parameter that none of the queries takes."""
    for name in params:
        if not any(statement and name in statement.params for statement in found):
            raise NotNamed(name)


def written(statement: Statement, style: str) -> tuple[str, Any]:
    """Write a statement in a driver's style of parameters (PEP 249's, or `numeric_dollar`)."""
    order: list[str] = []
    percent = style in {"format", "pyformat"}
    place = _PLACES[style]

    def replace(found: re.Match[str]) -> str:
        if not found["name"]:
            return found[0]
        order.append(found["name"])
        return place(found["name"], len(order))

    text = statement.text.replace("%", "%%") if percent else statement.text
    text = _TOKENS.sub(replace, text)
    if style in {"named", "pyformat"}:
        return text, dict(statement.params)
    return text, tuple(statement.params[name] for name in order)


_PLACES: dict[str, Callable[[str, int], str]] = {
    "named": lambda name, _: f":{name}",
    "pyformat": lambda name, _: f"%({name})s",
    "format": lambda *_: "%s",
    "qmark": lambda *_: "?",
    "numeric": lambda _, number: f":{number}",
    "numeric_dollar": lambda _, number: f"${number}",
}
