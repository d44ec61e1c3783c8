"""Owns the reference to a stored artifact: what it is, its digest, and where its bytes lie."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from protocol import wire

Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$(?!\n)")]

Kind = Literal[
    "table", "model", "metrics", "report", "text", "images", "list", "features", "predictions"
]
"""The kinds of data that travel between stages; ports of different kinds don't connect."""


class ColumnSchema(wire.Fact, frozen=True):
    """One column of a table artifact: its name, Arrow type and whether nulls occur."""

    name: str
    type: str
    nullable: bool = True


class ArtifactRef(wire.Fact, frozen=True):
    """A content-addressed artifact: equal content has an equal digest and is stored once."""

    kind: Kind
    digest: Digest
    uri: str
    """Where the bytes lie; a small document travels in it, as a `data:` URI (RFC 2397)."""
    media_type: str
    size_bytes: int
    rows: int | None = None
    """Rows of a table, elements of a list."""
    schema: list[ColumnSchema] | None = None


Output = ArtifactRef | list[ArtifactRef]
"""What a port holds: one artifact, or one per element of a fanned-out stage."""
