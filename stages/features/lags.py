"""Owns columns made of the past of a series: lags and rolling windows. They never see ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from stages import columns, kit, values

if TYPE_CHECKING:
    import pandas as pd

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class SeesAhead(kit.DataFault):
    """A lag is shorter than the horizon: at forecast time its value is not known yet."""

    def __init__(self, lag: int, horizon: int) -> None:
        super().__init__(
            f"lag {lag} is not known {horizon} rows ahead",
            hint=f"use lags of at least {horizon}, or a shorter horizon",
            path="$.lags",
        )


class TooFewRows(kit.DataFault):
    """Every row lacks some of the past that the lags and windows need."""

    def __init__(self, rows: int, needed: int) -> None:
        super().__init__(
            f"{rows} rows are too few for lags and windows that reach {needed} rows back",
            hint="use shorter lags and windows, or keep incomplete rows",
            path="$.lags",
        )


@kit.stage("features.lags", libraries=("pandas",))
class Lags(kit.Stage, frozen=True):
    """Add lags and rolling statistics of columns, over rows at least `horizon` rows old.

    `lags: [12]` adds `y_lag_12`, the value 12 rows earlier; `windows: [7]` adds `y_mean_7` and so
    on, over the 7 rows that end `horizon` rows earlier.
    """

    columns: Annotated[list[str], msgspec.Meta(min_length=1)]
    lags: list[Count] = []
    windows: list[Count] = []
    statistics: list[Literal["mean", "std", "min", "max", "median", "sum"]] = msgspec.field(
        default_factory=lambda: ["mean", "std", "min", "max"]
    )
    horizon: Count = 1
    """How many rows ahead the model will have to forecast."""
    time: str | None = None
    """Order rows by this column first; without it they are taken as they lie."""
    group: str | None = None
    """Keep series apart."""
    incomplete: Literal["drop", "keep"] = "drop"
    """What becomes of the first rows, whose past is not long enough."""

    def run(self, table: values.Table) -> values.Table:
        """Add the columns."""
        self._check(table)
        frame = self._ordered(table)
        added = [name for column in self.columns for name in self._add(frame, column)]
        if self.incomplete == "drop":
            frame = self._complete(frame, added)
        return values.Table.from_pandas(frame)

    def _check(self, table: values.Table) -> None:
        columns.require_rows(table)
        columns.require_numbers(table, self.columns, "$.columns")
        columns.require_finite(table, self.columns)
        columns.require(table, [self.group] if self.group else [], "$.group")
        for lag in self.lags:
            if lag < self.horizon:
                raise SeesAhead(lag, self.horizon)

    def _ordered(self, table: values.Table) -> pd.DataFrame:
        frame = table.pandas()
        if self.time is not None:
            frame[self.time] = columns.times(table, self.time, "$.time")
            if gaps := int(frame[self.time].isna().sum()):
                raise columns.NotTime(self.time, f"{gaps} rows have no time", "$.time")
            frame = frame.sort_values(self.time, kind="stable").reset_index(drop=True)
        return frame

    def _add(self, frame: pd.DataFrame, column: str) -> list[str]:
        before = list(frame.columns)
        series = self._series(frame, column)
        for lag in self._lags():
            frame[f"{column}_lag_{lag}"] = series.shift(lag)
        known = series.shift(self.horizon)
        for window in self.windows:
            for statistic in self.statistics:
                frame[f"{column}_{statistic}_{window}"] = self._rolled(
                    frame, known, window, statistic
                )
        return [name for name in frame.columns if name not in before]

    def _lags(self) -> list[int]:
        """Take the given lags; the three newest known ones where nothing is asked for."""
        if self.lags or self.windows:
            return self.lags
        return [self.horizon, self.horizon + 1, self.horizon + 2]

    def _series(self, frame: pd.DataFrame, column: str) -> Any:
        if self.group is None:
            return frame[column]
        return frame.groupby(self.group, dropna=False)[column]

    def _rolled(self, frame: pd.DataFrame, known: Any, window: int, statistic: str) -> Any:
        """Compute over whole windows only; the deviation of a single row is not defined."""
        if self.group is None:
            return getattr(known.rolling(window), statistic)()
        grouped = known.groupby(frame[self.group], dropna=False)
        return grouped.transform(lambda part: getattr(part.rolling(window), statistic)())

    def _complete(self, frame: pd.DataFrame, added: list[str]) -> pd.DataFrame:
        """Drop the rows whose past is too short, not those whose past has gaps."""
        reach = max([*self._lags(), *(self.horizon + window - 1 for window in self.windows)])
        if self.group is None:
            place: Any = frame.index
        else:
            place = frame.groupby(self.group, dropna=False).cumcount()
        complete: pd.DataFrame = frame[place >= reach].reset_index(drop=True)
        if complete.empty and added:
            raise TooFewRows(len(frame), reach)
        return complete
