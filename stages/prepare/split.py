"""Owns the split of a table into rows to learn from and rows to be judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec

from stages import columns, kit, values

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Rows = np.ndarray[tuple[int], np.dtype[np.intp]]

Strategy = Literal["auto", "random", "stratified", "group", "time"]
_CLASSES_AT_MOST = 20
_MEMBERS_AT_LEAST = 2


class OneClass(kit.DataFault):
    """The target has a single value."""

    def __init__(self, target: str, value: object) -> None:
        super().__init__(
            f"the target {target!r} has only one value, {value!r}: there is nothing to learn",
            hint="check the label rule and what earlier stages dropped",
            path="$.target",
        )


class RareClass(kit.DataFault):
    """A class has too few rows to be on both sides of a stratified split."""

    def __init__(self, target: str, rare: list[str]) -> None:
        super().__init__(
            f"classes of {target!r} have fewer than 2 rows: {', '.join(rare[:5])}",
            hint="use strategy 'random', or drop or merge the rare classes",
            path="$.target",
        )


class UnusableTarget(kit.DataFault):
    """The target has gaps or infinite values."""

    def __init__(self, target: str, count: int) -> None:
        super().__init__(
            f"the target {target!r} is missing or infinite in {count} rows",
            hint="let quality.expect drop those rows; a target is never imputed",
            path="$.target",
        )


class TooFewGroups(kit.DataFault):
    """There are not enough groups, or rows, to have some on both sides."""

    def __init__(self, what: str, count: int, path: str) -> None:
        super().__init__(
            f"{what}: {count}; both sides of a split need at least one",
            hint="take more data, another fraction, or another strategy",
            path=path,
        )


class Parts(NamedTuple):
    """The two sides of a split."""

    train: values.Table
    test: values.Table


@kit.stage("prepare.split", libraries=("numpy", "pandas", "scikit-learn"))
class Split(kit.Stage, frozen=True):
    """Split rows into train and test: at random, by class, by whole groups, or by time.

    `auto` goes by time where `time` is given, by groups where `group` is, keeps the shares of the
    classes where the target is one, and else draws at random. Equal seeds split equally.
    """

    target: str | None = None
    test_fraction: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    seed: int | None = None
    """The run's seed, where it is not given."""
    strategy: Strategy = "auto"
    group: str | None = None
    """Rows of one group stay together."""
    time: str | None = None
    """The test rows are the latest; rows of equal time stay together."""
    gap: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Rows left out between train and test, for strategy `time`."""
    embargo_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Time left out between train and test, for strategy `time`."""

    def run(self, table: values.Table, context: kit.Context) -> Parts:
        """Split."""
        columns.require_rows(table, 2)
        strategy = self._strategy(table)
        seed = context.seed if self.seed is None else self.seed
        if strategy == "time":
            train, test = self._by_time(table)
        elif strategy == "group":
            train, test = self._by_group(table, seed)
        else:
            train, test = self._drawn(table, seed, stratified=strategy == "stratified")
        for side, rows in (("train rows", train), ("test rows", test)):
            if not len(rows):
                raise TooFewGroups(side, 0, "$.test_fraction")
        return Parts(_take(table, train), _take(table, test))

    def _strategy(self, table: values.Table) -> Strategy:
        if self.target is not None:
            columns.require(table, [self.target], "$.target")
            self._check_target(table, self.target)
        if self.strategy != "auto":
            return self.strategy
        if self.time is not None:
            return "time"
        if self.group is not None:
            return "group"
        return "stratified" if self._is_class(table) else "random"

    def _check_target(self, table: values.Table, target: str) -> None:
        import pyarrow.compute as pc

        column = table.arrow[target]
        unusable = column.null_count + _not_finite(table, target)
        if unusable:
            raise UnusableTarget(target, unusable)
        distinct = pc.unique(column)
        if len(distinct) == 1 and self.strategy in ("auto", "stratified"):
            raise OneClass(target, distinct[0].as_py())

    def _is_class(self, table: values.Table) -> bool:
        """Tell whether the target is a class with enough members everywhere."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.target is None:
            return False
        column = table.arrow[self.target]
        if pa.types.is_floating(column.type) or columns.sort(column.type) == "time":
            return False
        counts = pc.value_counts(column).field("counts").to_pylist()
        return len(counts) <= _CLASSES_AT_MOST and min(counts) >= _MEMBERS_AT_LEAST

    def _drawn(self, table: values.Table, seed: int, *, stratified: bool) -> tuple[Rows, Rows]:
        import numpy as np
        from sklearn import model_selection

        labels = self._labels(table) if stratified else None
        everything = np.arange(table.arrow.num_rows)
        try:
            train, test = model_selection.train_test_split(
                everything, test_size=self.test_fraction, random_state=seed, stratify=labels
            )
        except ValueError as error:
            raise TooFewGroups(str(error), len(everything), "$.test_fraction") from error
        return np.sort(train), np.sort(test)

    def _labels(self, table: values.Table) -> pd.Series[str]:
        if self.target is None:
            raise columns.NoSuchColumn(["(no target given)"], table.columns, "$.target")
        labels: pd.Series[str] = table.arrow[self.target].to_pandas().astype(str)
        counts = labels.value_counts()
        if rare := [str(name) for name in counts.index[counts < _MEMBERS_AT_LEAST]]:
            raise RareClass(self.target, sorted(rare))
        return labels

    def _by_group(self, table: values.Table, seed: int) -> tuple[Rows, Rows]:
        import numpy as np

        name = self.group or "(no group given)"
        columns.require(table, [name], "$.group")
        groups = table.arrow[name].to_pandas().astype(str).to_numpy()
        names = np.unique(groups)
        if len(names) < 2:  # noqa: PLR2004 - one for each side
            raise TooFewGroups(f"groups in {name!r}", len(names), "$.group")
        names = np.random.default_rng(seed).permutation(names)
        count = min(len(names) - 1, max(1, round(len(names) * self.test_fraction)))
        in_test = np.isin(groups, names[:count])
        return np.flatnonzero(~in_test), np.flatnonzero(in_test)

    def _by_time(self, table: values.Table) -> tuple[Rows, Rows]:
        import numpy as np
        import pandas as pd

        name = self.time or "(no time given)"
        times = columns.times(table, name, "$.time")
        if gaps := int(times.isna().sum()):
            raise columns.NotTime(name, f"{gaps} rows have no time", "$.time")
        order = np.argsort(times.to_numpy(), kind="stable")
        cut = len(order) - max(1, round(len(order) * self.test_fraction))
        ordered = times.iloc[order].reset_index(drop=True)
        test = order[(ordered >= ordered.iloc[cut]).to_numpy()]
        ends = ordered.iloc[cut] - pd.Timedelta(seconds=self.embargo_s)
        earlier = (ordered < ordered.iloc[cut]) & (ordered <= ends)
        train = order[earlier.to_numpy()]
        return train[: max(0, len(train) - self.gap)], test


def _not_finite(table: values.Table, name: str) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.arrow[name]
    if not pa.types.is_floating(column.type):
        return 0
    return int(pc.sum(pc.invert(pc.is_finite(column.drop_null()))).as_py() or 0)


def _take(table: values.Table, rows: Rows) -> values.Table:
    return values.Table(table.arrow.take(rows).combine_chunks())
