"""Owns the reading of a profile: the few facts about data that a design depends on."""

from __future__ import annotations

from typing import Any

import msgspec


class Column(msgspec.Struct, frozen=True):
    """One column: how many gaps, how many different values, whether it is prose."""

    name: str
    nulls: int = 0
    distinct: int | None = None
    text: bool = False


class Profile(msgspec.Struct, frozen=True):
    """A table as it was looked at."""

    rows: int
    columns: list[Column]

    @property
    def names(self) -> list[str]:
        """Name the columns in order."""
        return [column.name for column in self.columns]

    @property
    def has_text(self) -> bool:
        """Tell whether a column holds prose or code."""
        return any(column.text for column in self.columns)

    def column(self, name: str) -> Column:
        """Look a column up; one that is not there has no gaps."""
        return next((c for c in self.columns if c.name == name), Column(name))

    def first(self, *names: str) -> str | None:
        """Give the first of these columns that is there."""
        return next((name for name in names if name in self.names), None)


def read(data: dict[str, Any]) -> Profile:
    """Read the report that `quality.profile` makes."""
    return Profile(
        rows=int(data["rows"]), columns=[_column(name, facts) for name, facts in _facts(data)]
    )


def _facts(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(facts["name"], facts) for facts in data["columns"]]


def _column(name: str, facts: dict[str, Any]) -> Column:
    return Column(
        name=name,
        nulls=int(facts.get("nulls", 0)),
        distinct=facts.get("distinct"),
        text=facts.get("kind") == "text",
    )
