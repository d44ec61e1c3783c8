"""Owns what it means when a database refuses: the faults, and which of them a refusal is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

from stages import kit, sources

_MOST = 300
URL, QUERY = "$.url", "$.query"


class BadQuery(kit.DataFault):
    """The database can't carry a query out."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(f"{sources.shown(name)!r} refuses the query: {said}", path=QUERY)


class UnknownTable(kit.DataFault):
    """A query names a table that the database does not have, or does not show."""

    def __init__(self, name: str, said: str, tables: Sequence[str] = ()) -> None:
        word = re.findall(r"[\w$]+", re.sub(r"does(n't| not) exist", "", said).partition("\n")[0])
        near = difflib.get_close_matches(word[-1] if word else "", tables, n=3)
        hint = "look at the table's name, its schema, and whether the user may see it"
        super().__init__(
            f"{sources.shown(name)!r} has no such table: {said}",
            hint="did you mean " + " or ".join(repr(each) for each in near) + "?" if near else hint,
            path=QUERY,
        )


class WriteRefused(kit.NotAllowed):
    """A query tried to write."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(
            f"{sources.shown(name)!r} is open for reading only: {said}",
            hint="this stage reads only; look for functions that write",
            path=QUERY,
        )


class AccessRefused(kit.DataFault):
    """The database does not let the user in: trying again changes nothing."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(
            f"{sources.shown(name)!r} does not let the user in: {said}",
            hint="look at the user in url, the secret that password refers to, and the database",
            path=URL,
        )


class Away(kit.Transient):
    """The database can't be reached, or can't serve, at the moment."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(f"{sources.shown(name)!r} can't serve: {said}", path=URL)


class NotADatabase(kit.DataFault):
    """A file is not one of the database's."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(f"{sources.shown(name)!r} can't be read: {said}", path=URL)


Fault = Callable[[str, str], kit.StageFault]

_BY_STATE: tuple[tuple[str, Fault], ...] = (
    ("25006", WriteRefused),
    ("42P01", UnknownTable),
    ("42S02", UnknownTable),
    ("28", AccessRefused),
    ("3D", AccessRefused),
    ("08", Away),
    ("40", Away),
    ("53", Away),
    ("57", Away),
    ("SQLITE_READONLY", WriteRefused),
    ("SQLITE_AUTH", WriteRefused),
    ("SQLITE_BUSY", Away),
    ("SQLITE_LOCKED", Away),
    ("SQLITE_NOTADB", NotADatabase),
    ("SQLITE_CORRUPT", NotADatabase),
    ("SQLITE_CANTOPEN", NotADatabase),
)
"""The start of an SQLSTATE, or of SQLite's name for an error."""
_BY_TEXT: tuple[tuple[str, Fault], ...] = (
    (r"no such table|table .* doesn't exist", UnknownTable),
    (r"readonly database|read-only transaction", WriteRefused),
    (r"database is locked|canceling statement", Away),
    (r"not a database|malformed|unable to open|failed to open", NotADatabase),
    (r"authentication failed|no password supplied|access denied|login failed", AccessRefused),
    (r"no pg_hba.conf entry|(database|role) .* does not exist", AccessRefused),
)
"""For what comes without a state: libpq has none before it is connected, nor have some drivers."""


def of(error: BaseException, name: str, said: str, otherwise: Fault) -> kit.StageFault:
    """Tell which fault a driver's error is; `said` is its text, without secrets."""
    state, brief = _state(error), said.strip()[:_MOST]
    for start, fault in _BY_STATE:
        if state.startswith(start):
            return fault(name, brief)
    if state in {"", "SQLITE_ERROR"}:
        for pattern, fault in _BY_TEXT:
            if re.search(pattern, said, re.IGNORECASE):
                return fault(name, brief)
    return otherwise(name, brief)


def _state(error: Any) -> str:
    names = ("sqlstate", "pgcode", "sqlite_errorname")
    found = (getattr(error, name, None) for name in names)
    return next((str(each) for each in found if each), "")
