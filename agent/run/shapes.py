"""Owns what the core knows of a kind of stage, and of how one stage is wired to others."""

from __future__ import annotations

import msgspec

from protocol import pipelines


class Port(msgspec.Struct, frozen=True):
    """An input or output: its kind, whether it may be absent, whether it holds a list."""

    name: str
    kind: str
    optional: bool = False
    many: bool = False


class Shape(msgspec.Struct, frozen=True):
    """A kind of stage, as far as deciding what happens next needs it."""

    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    effects: bool = False
    """It changes something outside: launched only once its start is journaled."""
    delegated: bool = False
    """A specialist carries it out."""


class Binding(msgspec.Struct, frozen=True):
    """An input port and the upstream output that fills it."""

    port: str
    many: bool
    optional: bool
    source: int
    source_port: str


class Bound(msgspec.Struct, frozen=True):
    """A condition whose stage has been looked up."""

    source: int
    metric: str
    op: pipelines.Operator
    value: float
