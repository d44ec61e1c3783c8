"""Owns the two bases of every message: commands are strict, facts are open to newer fields."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec

# Python's `$` also matches before a final line feed; the lookahead refuses one.
Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
"""A subject-safe identifier: no dots, spaces or wildcards, so it is one NATS token."""

Time = Annotated[dt.datetime, msgspec.Meta(tz=True)]
"""A time with its offset: one without could be compared with no other."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something asked of the agent: an unknown field is refused, so a typo is never ignored."""


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something told by the agent: a reader ignores fields newer than itself."""
