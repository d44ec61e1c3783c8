"""Owns whose keys count, and what each may ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import msgspec

from protocol import signing, trail

Action = Literal["submit", "deploy", "approve", "cancel", "resume", "promote", "control"]
ACTIONS: tuple[str, ...] = get_args(Action)

_ENTRY = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.@-]{0,63})=([A-Z2-7]+)(?::([a-z+]+))?")


class BadEntry(ValueError):
    """A text does not say whose key it is."""

    def __init__(self, entry: str, reason: str) -> None:
        super().__init__(reason)
        self.entry = entry


class Trusted(msgspec.Struct, frozen=True):
    """A key, the name it goes by here, and what it may ask for; anything where `rights` is None."""

    name: str
    key: str
    rights: frozenset[str] | None = None

    def may(self, action: str) -> bool:
        """Tell whether it may ask for an action."""
        return self.rights is None or action in self.rights


def read(entries: Iterable[str]) -> Mapping[str, Trusted]:
    """Read `NAME=PUBLIC-NKEY` or `NAME=PUBLIC-NKEY:ACTION+ACTION`, by key; raise BadEntry.

    A name may have several keys, so that one can follow the other; a key has one name.
    """
    found: dict[str, Trusted] = {}
    for entry in entries:
        one = _one(entry)
        if one.key in found:
            raise BadEntry(entry, f"this key is {found[one.key].name!r} already")
        found[one.key] = one
    return found


def _one(entry: str) -> Trusted:
    matched = _ENTRY.fullmatch(entry.strip())
    if matched is None:
        raise BadEntry(entry, "it is not NAME=PUBLIC-NKEY or NAME=PUBLIC-NKEY:ACTION+ACTION")
    name, key, said = matched.groups()
    if name == trail.UNSIGNED:
        raise BadEntry(entry, f"{name!r} stands for no key in the audit log")
    rights = None if said is None else frozenset(said.split("+"))
    for action in sorted(rights or ()):
        if action not in ACTIONS:
            raise BadEntry(entry, f"{action!r} is none of {', '.join(ACTIONS)}")
    try:
        signing.public_bytes(key)
    except signing.NotAKey as error:
        raise BadEntry(entry, str(error)) from error
    return Trusted(name, key, rights)
