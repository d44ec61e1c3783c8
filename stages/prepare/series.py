"""Owns the stages for ordered rows: filling gaps from the past, and regular frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from stages import columns, kit, values

if TYPE_CHECKING:
    import pandas as pd

Aggregation = Literal["mean", "sum", "min", "max", "first", "last", "median", "count"]


class Filled(NamedTuple):
    """The rows, and what was done to gaps."""

    table: values.Table
    report: values.Report


class UnknownFrequency(kit.DataFault):
    """A frequency that is none."""

    def __init__(self, every: str) -> None:
        super().__init__(
            f"{every!r} is not a frequency",
            hint="as '15min', 'h', 'D', 'W', 'MS' (month start), 'QS', 'YS'",
            path="$.every",
        )


class TooManyRows(kit.DataFault):
    """A frequency so fine, or a time range so long, that the rows can't be held."""

    def __init__(self, rows: int, limit: int) -> None:
        super().__init__(
            f"the regular series would have {rows} rows, and {limit} are allowed",
            hint="choose a coarser frequency, or look for stray times",
            path="$.every",
        )


@kit.stage("prepare.impute", libraries=("pandas",))
class Impute(kit.Stage, frozen=True):
    """Fill gaps without learning from other rows: a constant, or from neighbours in order.

    `forward` looks at the past only. `interpolate` and `backward` look ahead: not for features
    of a forecast. Filling by mean or median is fitted, and belongs to features.impute.
    """

    method: Literal["constant", "forward", "backward", "interpolate"]
    columns: list[str] = []
    """All columns that have gaps, where none are named."""
    value: str | int | float | bool | None = None
    time: str | None = None
    """Order rows by this column first; without it they are taken as they lie."""
    group: str | None = None
    """Never fill across groups."""
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Fill at most so many rows in a row."""

    def run(self, table: values.Table) -> Filled:
        """Fill gaps."""
        names = columns.chosen(table, self.columns, [], "number", "boolean", "text", "time")
        names = [name for name in names if table.arrow[name].null_count]
        self._check(table, names)
        frame = ordered(table, self.time, "$.time")
        before = frame[names].isna().sum()
        for name in names:
            frame[name] = self._filled(frame, name)
        left = frame[names].isna().sum()
        report = {
            "title": "Imputation",
            "summary": f"{int((before - left).sum())} gaps filled by {self.method}",
            "filled": {name: int(before[name] - left[name]) for name in names},
            "left": {name: int(left[name]) for name in names},
        }
        return Filled(values.Table.from_pandas(frame), values.Report(report))

    def _check(self, table: values.Table, names: list[str]) -> None:
        if self.group is not None:
            columns.require(table, [self.group], "$.group")
        if self.method == "interpolate":
            columns.require_numbers(table, names, "$.columns")

    def _filled(self, frame: pd.DataFrame, name: str) -> Any:
        if self.method == "constant":
            return self._constant(frame[name])
        if self.group is None:
            return self._along(frame[name])
        return frame.groupby(self.group, dropna=False)[name].transform(self._along)

    def _constant(self, column: pd.Series[Any]) -> Any:
        try:
            return column.fillna(self.value)
        except (TypeError, ValueError) as error:
            raise columns.NotNumeric(
                str(column.name), type(self.value).__name__, "$.value"
            ) from error

    def _along(self, column: pd.Series[Any]) -> Any:
        if self.method == "forward":
            return column.ffill(limit=self.limit)
        if self.method == "backward":
            return column.bfill(limit=self.limit)
        return column.interpolate(limit=self.limit, limit_area="inside")


@kit.stage("prepare.resample", libraries=("pandas",))
class Resample(kit.Stage, frozen=True):
    """Bring a time series to a regular frequency; periods without rows become gaps, and are told.

    Numbers are aggregated; other columns are left out, but for `group`.
    """

    time: str
    every: str
    """A pandas frequency, as `h`, `D`, `W` or `MS`."""
    aggregate: Aggregation | dict[str, Aggregation] = "mean"
    """For all columns of numbers, or by column."""
    group: str | None = None
    at_most: Annotated[int, msgspec.Meta(ge=1)] = 10_000_000

    def run(self, table: values.Table) -> Filled:
        """Resample."""
        columns.require_rows(table)
        how = self._aggregations(table)
        frame = ordered(table, self.time, "$.time")
        if gaps := int(frame[self.time].isna().sum()):
            raise columns.NotTime(self.time, f"{gaps} rows have no time", "$.time")
        self._check_size(frame)
        regular = self._regular(frame, how)
        empty = regular[list(how)].isna().all(axis=1)
        report = {
            "title": "Resampling",
            "summary": f"{len(frame)} rows became {len(regular)}, one per {self.every}; "
            f"{int(empty.sum())} periods are empty",
            "gaps": int(empty.sum()),
            "gap_times": [str(time) for time in regular.loc[empty, self.time].head(100)],
        }
        return Filled(values.Table.from_pandas(regular), values.Report(report))

    def _aggregations(self, table: values.Table) -> dict[str, Aggregation]:
        columns.require(table, [self.group] if self.group else [], "$.group")
        if isinstance(self.aggregate, dict):
            columns.require_numbers(table, list(self.aggregate), "$.aggregate")
            return self.aggregate
        names = columns.of_sort(table, "number", but=[self.time, self.group or ""])
        if not names:
            raise columns.NoSuchColumn(["(of numbers)"], table.columns, "$.aggregate")
        return dict.fromkeys(names, self.aggregate)

    def _check_size(self, frame: pd.DataFrame) -> None:
        import pandas as pd

        try:
            offset = pd.tseries.frequencies.to_offset(self.every)
        except ValueError as error:
            raise UnknownFrequency(self.every) from error
        start = frame[self.time].iloc[0]
        step = (start + offset * 100 - start) / 100
        groups = frame[self.group].nunique() if self.group else 1
        rows = int((frame[self.time].iloc[-1] - start) / step) * groups
        if rows > self.at_most:
            raise TooManyRows(rows, self.at_most)

    def _regular(self, frame: pd.DataFrame, how: dict[str, Aggregation]) -> pd.DataFrame:
        indexed = frame.set_index(self.time)
        grouped = indexed.groupby(self.group) if self.group else indexed
        sampled = grouped.resample(self.every)
        parts = {name: _aggregated(sampled[name], way) for name, way in how.items()}
        import pandas as pd

        return pd.DataFrame(parts).reset_index()


def _aggregated(sampled: Any, way: Aggregation) -> Any:
    """Aggregate; the sum of nothing is a gap, not zero."""
    return sampled.sum(min_count=1) if way == "sum" else getattr(sampled, way)()


def ordered(table: values.Table, time: str | None, path: str) -> pd.DataFrame:
    """Give the rows in the order of a time column, read as times; as they lie without one."""
    frame = table.pandas()
    if time is None:
        return frame
    frame[time] = columns.times(table, time, path)
    return frame.sort_values(time, kind="stable").reset_index(drop=True)
