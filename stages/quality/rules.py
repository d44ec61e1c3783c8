"""Owns what may be expected of a column, and which rows do not meet it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from stages import columns, kit, values

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Action = Literal["fail", "drop", "impute", "quarantine"]


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a column's values must be; whatever is not named is not checked."""

    type: columns.Sort | None = None
    nullable: bool = True
    min: float | None = None
    max: float | None = None
    unique: bool = False
    values: list[str | int | float | bool] | None = None
    pattern: str | None = None
    """A regular expression that the whole text must match."""
    finite: bool = True
    max_null_fraction: float | None = None
    min_mean: float | None = None
    max_mean: float | None = None
    action: Action | None = None
    """Instead of the stage's own."""
    impute: int | float | str = "median"
    """What takes its place where the action is `impute`: median, mean, mode, or a constant."""


class BadPattern(kit.DataFault):
    """A pattern is not a regular expression."""

    def __init__(self, pattern: str, reason: str, path: str) -> None:
        super().__init__(f"the pattern {pattern!r} can't be read: {reason}", path=path)


def broken_rows(
    table: values.Table, name: str, expected: Expected, path: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Give each expectation that a row can break, with the rows that break it as a mask."""
    series = table.arrow[name].to_pandas()
    present = series.notna()
    if not expected.nullable:
        yield "nullable", (~present).to_numpy(bool)
    if columns.sort(table.arrow.schema.field(name).type) == "number":
        yield from _numbers(series.astype("float64"), expected)
    elif expected.min is not None or expected.max is not None:
        columns.require_numbers(table, [name], path)
    if expected.unique:
        yield "unique", (series.duplicated() & present).to_numpy(bool)
    if expected.values is not None:  # noqa: PD011 - a list of a Struct, no data frame
        yield "values", (~series.isin(expected.values) & present).to_numpy(bool)
    if expected.pattern is not None:
        yield "pattern", (_unmatched(series, expected.pattern, path) & present).to_numpy(bool)


def _numbers(series: pd.Series[float], expected: Expected) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    if expected.finite:
        yield "finite", np.isinf(series.to_numpy())
    if expected.min is not None:
        yield "min", (series < expected.min).to_numpy(bool)
    if expected.max is not None:
        yield "max", (series > expected.max).to_numpy(bool)


def _unmatched(series: pd.Series[str], pattern: str, path: str) -> pd.Series[bool]:
    try:
        whole = re.compile(pattern)
    except re.error as error:
        raise BadPattern(pattern, str(error), f"{path}.pattern") from error
    return series.map(lambda value: whole.fullmatch(str(value)) is None).astype(bool)


def broken_whole(table: values.Table, name: str, expected: Expected) -> Iterator[tuple[str, str]]:
    """Give each expectation of the column as a whole that is not met, and what was found."""
    import pyarrow.compute as pc

    column = table.arrow[name]
    found = columns.sort(column.type)
    if expected.type is not None and found != expected.type:
        yield "type", f"it is {found}, not {expected.type}"
    share = int(table.arrow[name].to_pandas().isna().sum()) / max(len(column), 1)
    if expected.max_null_fraction is not None and share > expected.max_null_fraction:
        yield "max_null_fraction", f"{share:.4g} of it is missing"
    if found == "number" and (expected.min_mean, expected.max_mean) != (None, None):
        mean = pc.mean(column).as_py()
        if mean is None or not _within(mean, expected.min_mean, expected.max_mean):
            yield "mean", f"its mean is {mean}"


def _within(number: float, low: float | None, high: float | None) -> bool:
    return (low is None or number >= low) and (high is None or number <= high)
