"""Owns the stages that choose, name and type columns: select, rename, cast, label."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from stages import columns, kit, values
from stages.prepare import conditions

Type = Literal["integer", "number", "text", "boolean", "time", "category"]


class BadCast(kit.DataFault):
    """A column's values can't be read as the type asked for."""

    def __init__(self, column: str, wanted: str, reason: str) -> None:
        super().__init__(
            f"the column {column!r} can't be read as {wanted}: {reason}",
            hint="set errors to 'null' to make gaps of what can't be read",
            path=f"$.types.{column}",
        )


class NameTaken(kit.DataFault):
    """A new column would have the name of another."""

    def __init__(self, names: list[str], path: str) -> None:
        super().__init__(
            f"column names would occur twice: {', '.join(repr(name) for name in names)}",
            hint="choose other names",
            path=path,
        )


@kit.stage("prepare.select", libraries=("pyarrow",))
class Select(kit.Stage, frozen=True):
    """Keep the named columns in that order, or all but those dropped."""

    columns: list[str] = []
    drop: list[str] = []

    def run(self, table: values.Table) -> values.Table:
        """Choose columns."""
        columns.require(table, self.columns, "$.columns")
        columns.require(table, self.drop, "$.drop")
        kept = [name for name in self.columns or table.columns if name not in self.drop]
        return values.Table(table.arrow.select(kept))


@kit.stage("prepare.rename", libraries=("pyarrow",))
class Rename(kit.Stage, frozen=True):
    """Give columns new names: old to new."""

    names: Annotated[dict[str, str], msgspec.Meta(min_length=1)]

    def run(self, table: values.Table) -> values.Table:
        """Rename columns."""
        columns.require(table, list(self.names), "$.names")
        renamed = [self.names.get(name, name) for name in table.columns]
        if twice := sorted({name for name in renamed if renamed.count(name) > 1}):
            raise NameTaken(twice, "$.names")
        return values.Table(table.arrow.rename_columns(renamed))


@kit.stage("prepare.cast", libraries=("pyarrow", "pandas"))
class Cast(kit.Stage, frozen=True):
    """Give columns a type, as `{"price": "number"}`; what can't be read fails or becomes a gap."""

    types: Annotated[dict[str, Type], msgspec.Meta(min_length=1)]
    errors: Literal["fail", "null"] = "fail"

    def run(self, table: values.Table) -> values.Table:
        """Cast columns."""
        columns.require(table, list(self.types), "$.types")
        arrow = table.arrow
        for name, wanted in self.types.items():
            place = arrow.column_names.index(name)
            arrow = arrow.set_column(place, name, self._cast(arrow[name], name, wanted))
        return values.Table(arrow)

    def _cast(self, column: Any, name: str, wanted: Type) -> Any:
        import pyarrow as pa

        try:
            return _converted(column, wanted, "coerce" if self.errors == "null" else "raise")
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise BadCast(name, wanted, str(error).splitlines()[0][:200]) from error


def _converted(column: Any, wanted: Type, errors: Literal["coerce", "raise"]) -> Any:
    import pandas as pd
    import pyarrow as pa

    if wanted == "text":
        return column.cast(pa.string())
    if wanted == "category":
        return column.cast(pa.string()).dictionary_encode()
    if wanted == "boolean":
        return _booleans(column, errors)
    if wanted == "time":
        texts = columns.sort(column.type) == "text"
        read = pd.to_datetime(
            column.to_pandas(), errors=errors, format="ISO8601" if texts else None, utc=texts
        )
        return pa.array(read)
    numbers = pa.array(pd.to_numeric(column.to_pandas(), errors=errors), from_pandas=True)
    return numbers.cast(pa.int64() if wanted == "integer" else pa.float64())


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _booleans(column: Any, errors: Literal["coerce", "raise"]) -> Any:
    import pyarrow as pa

    found: list[bool | None] = []
    for value in column.cast(pa.string()).to_pylist():
        read = None if value is None else _WORDS.get(value.strip().lower())
        if read is None and value is not None and errors == "raise":
            msg = f"{value!r} is neither true nor false"
            raise ValueError(msg)
        found.append(read)
    return pa.array(found, pa.bool_())


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A label, and the conditions that must all hold for it."""

    label: str | int | float | bool
    where: Annotated[list[conditions.Condition], msgspec.Meta(min_length=1)]


@kit.stage("prepare.label", libraries=("pyarrow",))
class Label(kit.Stage, frozen=True):
    """Add a column whose value is the label of the first rule that a row meets, or the default.

    The columns that the rules look at give the label away; `drop_sources` leaves them out.
    """

    column: str
    rules: Annotated[list[Rule], msgspec.Meta(min_length=1)]
    default: str | int | float | bool | None = None
    drop_sources: bool = False

    def run(self, table: values.Table) -> values.Table:
        """Label rows."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.column in table.columns:
            raise NameTaken([self.column], "$.column")
        labels: Any = pa.repeat(pa.scalar(self.default, self._type()), table.arrow.num_rows)
        for number, rule in reversed(list(enumerate(self.rules))):
            met = conditions.mask(table, rule.where, f"$.rules[{number}].where")
            labels = pc.if_else(met, pa.scalar(rule.label, self._type()), labels)
        labelled = table.arrow.append_column(self.column, labels)
        return values.Table(labelled.drop_columns(self._sources()))

    def _type(self) -> Any:
        """Find the one type of all labels; raise MixedLabels if there are several."""
        import pyarrow as pa

        labels = [rule.label for rule in self.rules]
        labels += [] if self.default is None else [self.default]
        try:
            return pa.array(labels).type
        except pa.ArrowException as error:
            raise MixedLabels(labels) from error

    def _sources(self) -> list[str]:
        if not self.drop_sources:
            return []
        return sorted({condition.column for rule in self.rules for condition in rule.where})


class MixedLabels(kit.DataFault):
    """The labels are of several types."""

    def __init__(self, labels: list[Any]) -> None:
        super().__init__(
            f"the labels are of several types: {labels!r}",
            hint="use texts, or numbers, or true and false",
            path="$.rules",
        )
