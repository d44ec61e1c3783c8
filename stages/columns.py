"""Owns questions about a table's columns: which there are, of what sort, and what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from stages import kit, values

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Sort = Literal["number", "boolean", "time", "text", "other"]
_NAMED = 20


class NoSuchColumn(kit.DataFault):
    """A parameter names a column that the table does not have."""

    def __init__(self, missing: Sequence[str], columns: Sequence[str], path: str) -> None:
        names = ", ".join(repr(name) for name in missing[:5])
        super().__init__(
            f"the table has no column {names}", hint=_hint(missing, columns), path=path
        )
        self.missing = list(missing)


class EmptyTable(kit.DataFault):
    """A table without rows came where rows are needed."""

    def __init__(self, needed: int = 1, found: int = 0) -> None:
        super().__init__(
            f"the table has {found} rows, and at least {needed} are needed",
            hint="look at what the stages before it read and dropped",
        )


class NotNumeric(kit.DataFault):
    """A column that must hold numbers holds something else."""

    def __init__(self, column: str, found: str, path: str) -> None:
        super().__init__(
            f"the column {column!r} must hold numbers, and is of type {found}",
            hint="use prepare.cast, or another column; text among numbers makes a text column",
            path=path,
        )


class NotTime(kit.DataFault):
    """A column that must hold times can't be read as times."""

    def __init__(self, column: str, reason: str, path: str) -> None:
        super().__init__(
            f"the column {column!r} can't be read as times: {reason}",
            hint="times are understood as ISO 8601, as 2026-11-23T10:00:00Z",
            path=path,
        )


class NotFinite(kit.DataFault):
    """A column holds infinite values."""

    def __init__(self, column: str, count: int) -> None:
        super().__init__(
            f"the column {column!r} holds {count} infinite values",
            hint="let quality.expect drop or impute them, or mend them at the source",
        )


def _hint(missing: Sequence[str], columns: Sequence[str]) -> str:
    near = difflib.get_close_matches(missing[0], columns, n=3)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    shown = ", ".join(columns[:_NAMED])
    return f"its columns are {shown}" + (" …" if len(columns) > _NAMED else "")


def require(table: values.Table, names: Sequence[str], path: str) -> None:
    """Raise NoSuchColumn, with close matches, unless the table has all these columns."""
    if missing := [name for name in names if name not in table.columns]:
        raise NoSuchColumn(missing, table.columns, path)


def require_rows(table: values.Table, needed: int = 1) -> None:
    """Raise EmptyTable if there are fewer rows than needed."""
    if table.arrow.num_rows < needed:
        raise EmptyTable(needed, table.arrow.num_rows)


def require_finite(table: values.Table, names: Sequence[str]) -> None:
    """Raise NotFinite if one of the columns holds an infinite value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in names:
        column = table.arrow[name]
        if pa.types.is_floating(column.type) and (count := pc.sum(pc.is_inf(column)).as_py()):
            raise NotFinite(name, count)


def sort(kind: pa.DataType) -> Sort:
    """Tell what sort of column an Arrow type makes."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return sort(kind.value_type)
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    return "other"


def of_sort(table: values.Table, *sorts: Sort, but: Sequence[str] = ()) -> list[str]:
    """Name the columns of these sorts, in order, but for some."""
    return [
        field.name
        for field in table.arrow.schema
        if field.name not in but and sort(field.type) in sorts
    ]


def require_numbers(table: values.Table, names: Sequence[str], path: str) -> None:
    """Raise NoSuchColumn or NotNumeric unless these are columns of numbers."""
    require(table, names, path)
    for name in names:
        kind = table.arrow.schema.field(name).type
        if sort(kind) not in ("number", "boolean"):
            raise NotNumeric(name, str(kind), path)


def times(table: values.Table, name: str, path: str) -> pd.Series[pd.Timestamp]:
    """Read a column as times, ISO 8601 where it is text; gaps stay gaps.

    Raises NoSuchColumn or NotTime. Numbers are not guessed to be times.
    """
    import pandas as pd

    require(table, [name], path)
    kind = table.arrow.schema.field(name).type
    if sort(kind) not in ("time", "text"):
        raise NotTime(name, f"it is of type {kind}", path)
    try:
        return pd.to_datetime(
            table.arrow[name].to_pandas(), format=None if sort(kind) == "time" else "ISO8601"
        )
    except (ValueError, TypeError) as error:
        raise NotTime(name, str(error).splitlines()[0], path) from error


def chosen(
    table: values.Table, names: Sequence[str], but: Sequence[str], *sorts: Sort
) -> list[str]:
    """Give the named columns, or all of these sorts where none are named."""
    if not names:
        return of_sort(table, *sorts, but=but)
    require(table, names, "$.columns")
    return list(names)
