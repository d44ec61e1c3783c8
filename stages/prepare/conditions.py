"""Owns conditions on rows as data: a column, an operator, a value; nothing is evaluated as code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from stages import columns, kit, values

if TYPE_CHECKING:
    import pyarrow as pa

Operator = Literal[
    "==", "!=", "<", "<=", ">", ">=", "in", "not_in", "null", "not_null", "contains", "starts_with"
]
_COMPARISONS = {
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_TEXTS = {"contains": "match_substring", "starts_with": "starts_with"}


class Incomparable(kit.DataFault):
    """A condition compares a column with a value of another type."""

    def __init__(self, condition: Condition, found: str, path: str) -> None:
        super().__init__(
            f"{condition.column!r} {condition.op} {condition.value!r} makes no sense: "
            f"the column is of type {found}",
            hint="compare with a value of the column's type, or use prepare.cast first",
            path=path,
        )


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must hold of a row; a row without the value meets none but `null`."""

    column: str
    op: Operator
    value: Any = None


def mask(table: values.Table, conditions: list[Condition], path: str) -> pa.ChunkedArray:
    """Compute which rows meet all conditions.

    Raises columns.NoSuchColumn or Incomparable.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    met: Any = pa.chunked_array([pa.repeat(pa.scalar(True), table.arrow.num_rows)])
    for number, condition in enumerate(conditions):
        met = pc.and_(met, _one(table, condition, f"{path}[{number}]"))
    return met


def _one(table: values.Table, condition: Condition, path: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns.require(table, [condition.column], f"{path}.column")
    column = table.arrow[condition.column]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        met = _compute(column, condition)
    except (pa.ArrowException, TypeError, AttributeError) as error:
        raise Incomparable(condition, str(column.type), path) from error
    return pc.fill_null(met, False)


def _compute(column: Any, condition: Condition) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    op, value = condition.op, condition.value
    if op in ("null", "not_null"):
        return pc.is_null(column, nan_is_null=True) if op == "null" else pc.is_valid(column)
    if op in ("in", "not_in"):
        found = pc.is_in(column, value_set=pa.array(value).cast(column.type))
        return found if op == "in" else pc.and_(pc.is_valid(column), pc.invert(found))
    if op in _TEXTS:
        return getattr(pc, _TEXTS[op])(column, pattern=value)
    return getattr(pc, _COMPARISONS[op])(column, _scalar(column.type, value))


def _scalar(kind: Any, value: Any) -> Any:
    """Read a time given as text in the column's own type; leave other values as they are."""
    import pyarrow as pa

    if value is None:
        raise TypeError
    if columns.sort(kind) == "time" and isinstance(value, str):
        import pandas as pd

        try:
            return pa.scalar(pd.Timestamp(value), type=kind)
        except ValueError as error:
            raise TypeError from error
    return pa.scalar(value)
