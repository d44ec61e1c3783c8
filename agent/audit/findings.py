"""Owns what an audit finds, and the carrying out of its checks: none of them ends the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import msgspec

Severity = Literal["high", "medium", "low", "info"]
ORDER: tuple[Severity, ...] = ("high", "medium", "low", "info")
T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True):
    """One thing that an audit found."""

    rule: str
    """As `bus/open`: the same for the same kind of thing."""
    severity: Severity
    where: str
    """A file, a setting, an address, or a path into a request."""
    why: str
    mend: str = ""
    line: int | None = None
    """Of the file that was audited."""


def carry_out(checks: Iterable[Callable[[T], Iterable[Finding]]], thing: T) -> list[Finding]:
    """Carry out checks of something; the worst comes first."""
    found = [each for check in checks for each in _guarded(check, thing)]
    return sorted(found, key=lambda each: ORDER.index(each.severity))


def _guarded(check: Callable[[T], Iterable[Finding]], thing: T) -> Iterator[Finding]:
    name = check.__name__.strip("_").replace("_", " ")
    try:
        yield from list(check(thing))
    except Exception as error:  # noqa: BLE001 - an audit tells what it could not look at
        why = f"the check could not be carried out: {type(error).__name__}: {error}"
        yield Finding("audit/unchecked", "medium", name, why, "mend what keeps it from looking")


def has_high(found: Iterable[Finding]) -> bool:
    """Tell whether something was found that must not stay."""
    return any(each.severity == "high" for each in found)
