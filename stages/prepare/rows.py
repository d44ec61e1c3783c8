"""Owns the stages that choose rows: filter, deduplicate, and the list of a column's values."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

from stages import columns, kit, values
from stages.prepare import conditions


class Chosen(NamedTuple):
    """The rows that stay, and how many went."""

    table: values.Table
    report: values.Report


@kit.stage("prepare.filter", libraries=("pyarrow",))
class Filter(kit.Stage, frozen=True):
    """Keep the rows that meet all conditions, as `{"column": "age", "op": ">=", "value": 18}`."""

    where: Annotated[list[conditions.Condition], msgspec.Meta(min_length=1)]

    def run(self, table: values.Table) -> Chosen:
        """Filter."""
        met = conditions.mask(table, self.where, "$.where")
        return _chosen("Filter", table, values.Table(table.arrow.filter(met)))


@kit.stage("prepare.deduplicate", libraries=("pandas",))
class Deduplicate(kit.Stage, frozen=True):
    """Drop rows that repeat an earlier one in all columns, or in those named."""

    columns: list[str] = []
    keep: Literal["first", "last", "none"] = "first"

    def run(self, table: values.Table) -> Chosen:
        """Drop what repeats."""
        columns.require(table, self.columns, "$.columns")
        names = self.columns or table.columns
        keep: Literal["first", "last", False] = False if self.keep == "none" else self.keep
        repeats = table.arrow.select(names).to_pandas().duplicated(keep=keep)
        return _chosen(
            "Deduplication", table, values.Table(table.arrow.filter((~repeats).to_numpy()))
        )


@kit.stage("prepare.partition", libraries=("pyarrow",))
class Partition(kit.Stage, frozen=True):
    """List the distinct values of a column, in order, for `for_each` to fan out over."""

    column: str
    at_most: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000

    def run(self, table: values.Table) -> values.Items:
        """List the values."""
        import pyarrow.compute as pc

        columns.require(table, [self.column], "$.column")
        column = table.arrow[self.column]
        kind = column.type
        if columns.sort(kind) not in ("text", "number", "boolean"):
            raise columns.NotNumeric(self.column, str(kind), "$.column")
        keys = sorted(pc.unique(column.drop_null()).to_pylist())
        if len(keys) > self.at_most:
            raise TooManyParts(self.column, len(keys), self.at_most)
        return values.Items(keys)


class TooManyParts(kit.DataFault):
    """A column has more values than a fan-out may have elements."""

    def __init__(self, column: str, found: int, limit: int) -> None:
        super().__init__(
            f"{column!r} has {found} values, and {limit} are allowed",
            hint="choose a column with fewer values, or raise at_most",
            path="$.column",
        )


@kit.stage("prepare.part", libraries=("pyarrow",))
class Part(kit.Stage, frozen=True):
    """Keep the rows of one element of a partition; `value` comes from `for_each`."""

    column: str
    value: str | int | float | bool

    def run(self, table: values.Table) -> values.Table:
        """Keep the part's rows."""
        condition = conditions.Condition(self.column, "==", self.value)
        return values.Table(table.arrow.filter(conditions.mask(table, [condition], "$")))


def _chosen(title: str, before: values.Table, after: values.Table) -> Chosen:
    rows = after.arrow.num_rows
    dropped = before.arrow.num_rows - rows
    summary = f"{rows} of {before.arrow.num_rows} rows kept, {dropped} dropped"
    report = {"title": title, "summary": summary, "rows": rows, "dropped": dropped}
    return Chosen(values.Table(after.arrow.combine_chunks()), values.Report(report))
