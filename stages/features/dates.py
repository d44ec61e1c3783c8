"""Owns calendar columns made of a column of times, row by row, so that nothing is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from stages import columns, kit, values

if TYPE_CHECKING:
    import pandas as pd

Part = Literal[
    "year",
    "quarter",
    "month",
    "week",
    "day",
    "dayofyear",
    "weekday",
    "hour",
    "minute",
    "is_weekend",
    "is_month_start",
    "is_month_end",
    "elapsed_days",
]
_PERIODS = {"month": 12, "dayofyear": 365.25, "weekday": 7, "hour": 24, "minute": 60, "quarter": 4}
_FIRST = {"month": 1, "dayofyear": 1, "quarter": 1}
_NAMES = {"weekday": "day_of_week", "dayofyear": "day_of_year"}
_SATURDAY = 5


@kit.stage("features.dates", libraries=("pandas", "numpy"))
class Dates(kit.Stage, frozen=True):
    """Add calendar columns of a time: month, weekday, hour and others, and their place on a circle.

    A gap in time is a gap in each of them. Columns are named `<column>_<part>`.
    """

    column: str
    parts: list[Part] = msgspec.field(
        default_factory=lambda: ["year", "month", "day", "weekday", "elapsed_days"]
    )
    cyclical: list[Literal["month", "dayofyear", "weekday", "hour", "minute", "quarter"]] = []
    """As sine and cosine, so that December lies beside January."""
    drop: bool = False
    """Leave the column of times out."""

    def run(self, table: values.Table) -> values.Table:
        """Add the columns."""
        times = columns.times(table, self.column, "$.column")
        added: dict[str, Any] = {}
        for part in self.parts:
            added[f"{self.column}_{part}"] = _part(times, part)
        for part in self.cyclical:
            added |= _circle(times, f"{self.column}_{part}", part)
        arrow = table.arrow
        for name, column in added.items():
            arrow = _with(arrow, name, column)
        return values.Table(arrow.drop_columns([self.column]) if self.drop else arrow)


def _part(times: pd.Series[pd.Timestamp], part: str) -> Any:
    import pandas as pd

    if part == "week":
        found: Any = times.dt.isocalendar().week
    elif part == "is_weekend":
        found = times.dt.day_of_week >= _SATURDAY
    elif part == "elapsed_days":
        found = (times - pd.Timestamp(0, tz=times.dt.tz)) / pd.Timedelta(days=1)
    else:
        found = getattr(times.dt, _NAMES.get(part, part))
    return found.astype("float64").where(times.notna())


def _circle(times: pd.Series[pd.Timestamp], name: str, part: str) -> dict[str, Any]:
    import numpy as np

    angle = 2 * np.pi * (_part(times, part) - _FIRST.get(part, 0)) / _PERIODS[part]
    return {f"{name}_sin": np.sin(angle), f"{name}_cos": np.cos(angle)}


def _with(arrow: Any, name: str, column: Any) -> Any:
    """Add a column, or put it in place of one of the same name."""
    import pyarrow as pa

    array = pa.array(column, pa.float64(), from_pandas=True)
    if name in arrow.column_names:
        return arrow.set_column(arrow.column_names.index(name), name, array)
    return arrow.append_column(name, array)
