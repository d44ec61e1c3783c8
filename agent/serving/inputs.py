"""Owns what a deployed model takes: bytes into checked rows, and rows into its data frame."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from agent.bus import endpoints
from protocol import codec, problems, serving
from stages import models, values

MAX_ROWS = 10_000
_NO_NUMBER = re.compile(rb"[:,\[]\s*-?(NaN|Infinity)")
_TEXTS = ("string", "large_string", "dictionary<values=string")
_FLOATS = ("double", "float", "halffloat")
_WHOLE = re.compile(r"(u?)int(8|16|32|64)")


class NotServable(Exception):
    """A column of the model is of a type that no request can carry."""

    def __init__(self, column: models.Column) -> None:
        super().__init__(f"the model takes a column {column.name!r} of type {column.type}")
        self.column = column


class TooManyRows(endpoints.Refusal):
    """A request has more rows than are taken at once."""

    def __init__(self, rows: int, most: int) -> None:
        message, hint = f"{rows} rows; at most {most} are taken at once", "send them in parts"
        super().__init__(problems.Problem("payload_too_large", message, path="$.rows", hint=hint))


class NoRows(endpoints.Refusal):
    """A request has neither a row nor rows, or both."""

    def __init__(self) -> None:
        message = "exactly one of `row` and `rows` is needed, with a row at least"
        super().__init__(problems.Problem("invalid_field", message, path="$"))


class NotFinite(endpoints.Refusal):
    """A number is NaN or infinite."""

    def __init__(self, path: str) -> None:
        message, hint = "a number is NaN or infinite", "null stands for a missing value"
        super().__init__(problems.Problem("invalid_field", message, path=path, hint=hint))


class Asked(msgspec.Struct, frozen=True):
    """One request that can be answered."""

    rows: Sequence[Any]
    single: bool
    probabilities: bool = False


class Inputs:
    """Reads requests for one model."""

    def __init__(self, columns: Sequence[models.Column], most: int = MAX_ROWS) -> None:
        self._columns = columns
        self._most = most
        row = _row(columns)
        self._kind: Any = msgspec.defstruct(
            serving.Predict.__name__,
            [
                ("row", row | None, None),
                ("rows", list[row] | None, None),  # type: ignore[valid-type]
                ("probabilities", bool, False),
            ],
            frozen=True,
            forbid_unknown_fields=True,
        )

    def read(self, data: bytes, content_type: str | None = None) -> Asked:
        """Read a request; raise codec.ProtocolError or Refusal, with every problem's path."""
        try:
            asked = codec.decode(data, self._kind, content_type)
        except codec.Unreadable as broken:
            if _NO_NUMBER.search(data):
                raise NotFinite("$") from broken
            raise
        checked = self._checked(asked)
        if content_type and "msgpack" in content_type:
            self._check_finite(checked)
        return checked

    def take(self, rows: Sequence[serving.Row]) -> Asked:
        """Read rows that are decoded already."""
        return self.read(msgspec.json.encode({"rows": rows}))

    def schema(self) -> dict[str, Any]:
        """Give the JSON Schema of a request."""
        return msgspec.json.schema(self._kind, ref_template="#/components/schemas/{name}")

    def frame(self, rows: Sequence[Any]) -> Any:
        """Make the data frame that the model takes, typed as its training rows were."""
        import pyarrow as pa

        made = {
            column.name: pa.array([row[place] for row in rows], _arrow(column.type))
            for place, column in enumerate(self._columns)
        }
        return values.Table(pa.table(made)).pandas()

    def _checked(self, asked: Any) -> Asked:
        single = asked.row is not None
        if single == (asked.rows is not None) or asked.rows == []:
            raise NoRows
        given = [asked.row] if single else asked.rows
        if len(given) > self._most:
            raise TooManyRows(len(given), self._most)
        rows = [msgspec.structs.astuple(row) for row in given]
        return Asked(rows, single, asked.probabilities)

    def _check_finite(self, asked: Asked) -> None:
        """Refuse what MessagePack can carry and JSON cannot."""
        for place, column in enumerate(self._columns):
            if column.type not in _FLOATS:
                continue
            for number, row in enumerate(asked.rows):
                if row[place] is not None and not math.isfinite(row[place]):
                    where = "$.row" if asked.single else f"$.rows[{number}]"
                    raise NotFinite(f"{where}.{column.name}")


def _row(columns: Sequence[models.Column]) -> Any:
    """Define a row: columns may have any name, fields may not."""
    fields = [f"c{place}" for place in range(len(columns))]
    return msgspec.defstruct(
        "Row",
        [(field, _wire(column)) for field, column in zip(fields, columns, strict=True)],
        rename=dict(zip(fields, [column.name for column in columns], strict=True)),
        frozen=True,
        forbid_unknown_fields=True,
    )


def _wire(column: models.Column) -> Any:
    """Give what a request may say in a column; null is a missing value."""
    whole = _WHOLE.fullmatch(column.type)
    if whole:
        bits = int(whole[2])
        least, most = (0, 2**bits - 1) if whole[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        # msgspec takes bounds of 64 bits with a sign; its own decoder holds larger ones.
        bounds = {} if bits == 64 else {"ge": least, "le": most}  # noqa: PLR2004 - as above
        return Annotated[int, msgspec.Meta(**bounds)] | None
    for kinds, meant in _KINDS:
        if column.type.startswith(kinds):
            return meant(column.type) | None
    raise NotServable(column)


def _arrow(name: str) -> Any:
    import pyarrow as pa

    if name.startswith("dictionary"):
        return pa.string()
    unit = re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", name)
    return pa.timestamp(unit[1], unit[2]) if unit else pa.type_for_alias(name)


def _time(name: str) -> Any:
    return Annotated[dt.datetime, msgspec.Meta(tz="tz=" in name)]


_KINDS: tuple[tuple[tuple[str, ...], Callable[[str], Any]], ...] = (
    (_FLOATS, lambda _: float),
    (("bool",), lambda _: bool),
    (_TEXTS, lambda _: str),
    (("timestamp",), _time),
    (("date32",), lambda _: dt.date),
)


def plain(value: Any) -> Any:
    """Give a value of a table as a request has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, dt.date) else value
