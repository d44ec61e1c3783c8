"""Owns the when and why of a decision: the time and the cause that its events carry."""

from __future__ import annotations

import datetime as dt

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """Passed in by the conductor; the core has no clock."""

    now: dt.datetime
    cause: str
