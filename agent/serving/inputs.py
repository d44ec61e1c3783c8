"""Owns what a deployed model takes: bytes into checked rows, and rows into its data frame."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import msgspec

from agent.bus import endpoints
from protocol import codec, diagnosis, problems, serving
from stages import models, values

MAX_ROWS = 10_000
ARROW = "application/vnd.apache.arrow.stream"
"""The content type of a table, for many rows: nothing has to be written and read as text."""
_NO_NUMBER = re.compile(rb"[:,\[]\s*-?(NaN|Infinity)")
_TEXTS = ("string", "large_string", "dictionary<values=string")
_BYTES = ("binary", "large_binary")
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


class NoTable(endpoints.Refusal):
    """A body says that it is an Arrow stream and is none that can be read."""

    def __init__(self, reason: str) -> None:
        message = f"not {ARROW}: {reason[:300]}"
        super().__init__(problems.Problem("invalid_json", message, path="$"))


class WrongColumns(endpoints.Refusal):
    """A table has not the columns that the model takes; all that is wrong is told."""

    def __init__(self, found: list[problems.Problem]) -> None:
        super().__init__(problems.gather(found))


class Asked(msgspec.Struct, frozen=True):
    """One request that can be answered: an Arrow table, typed as the training rows were."""

    table: Any
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
        if content_type == ARROW:
            return Asked(self._sound(self._from_arrow(data)))
        try:
            asked = codec.decode(data, self._kind, content_type)
        except codec.Unreadable as broken:
            if _NO_NUMBER.search(data):
                raise NotFinite("$") from broken
            raise
        table = self._table(self._rows(asked))
        if content_type and "msgpack" in content_type:  # JSON has only numbers
            self._sound(table)
        return Asked(table, asked.probabilities)

    def take(self, rows: Sequence[serving.Row]) -> Asked:
        """Read rows that are decoded already."""
        return self.read(msgspec.json.encode({"rows": rows}))

    def schema(self) -> dict[str, Any]:
        """Give the JSON Schema of a request."""
        return msgspec.json.schema(self._kind, ref_template="#/components/schemas/{name}")

    def _rows(self, asked: Any) -> list[Any]:
        if (asked.row is not None) == (asked.rows is not None) or asked.rows == []:
            raise NoRows
        given: list[Any] = [asked.row] if asked.rows is None else asked.rows
        if len(given) > self._most:
            raise TooManyRows(len(given), self._most)
        return given

    def _table(self, rows: list[Any]) -> Any:
        import pyarrow as pa

        parts = zip(*map(msgspec.structs.astuple, rows), strict=True)
        pairs = zip(self._columns, parts, strict=True)
        return pa.table({c.name: pa.array(part, _arrow(c.type)) for c, part in pairs})

    def _from_arrow(self, data: bytes) -> Any:
        import pyarrow as pa

        try:
            table = pa.ipc.open_stream(data).read_all()
            table.validate(full=True)  # it comes from outside: offsets may lead anywhere
        except (pa.ArrowInvalid, pa.ArrowException, OSError, ValueError) as error:
            raise NoTable(str(error)) from error
        if not table.num_rows:
            raise NoRows
        if table.num_rows > self._most:
            raise TooManyRows(table.num_rows, self._most)
        return self._cast(table)

    def _cast(self, table: Any) -> Any:
        """Give the columns in their order and types; raise WrongColumns."""
        import pyarrow as pa

        found, made = list(self._strange(table.column_names)), {}
        for column in self._columns:
            if table.column_names.count(column.name) != 1:
                message = f"column {column.name!r} is needed once"
                found.append(problems.Problem("invalid_field", message, path=f"$.{column.name}"))
                continue
            try:
                made[column.name] = table[column.name].cast(_arrow(column.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                message = str(error)[:300]
                found.append(problems.Problem("invalid_field", message, path=f"$.{column.name}"))
        if found:
            raise WrongColumns(found)
        return pa.table(made)

    def _strange(self, names: Sequence[str]) -> Iterator[problems.Problem]:
        known = [column.name for column in self._columns]
        for name in names:
            if name not in known:
                said, hint = f"unknown column {name[:80]!r}", diagnosis.near(name, known)
                yield problems.Problem("unknown_field", said, path=f"$.{name[:80]}", hint=hint)

    def _sound(self, table: Any) -> Any:
        """Refuse numbers that are none, which a model would take for what it likes."""
        import pyarrow.compute as pc

        for column in self._columns:
            if column.type in _FLOATS:
                place = pc.index(pc.is_finite(table[column.name]), value=False).as_py()
                if place >= 0:
                    raise NotFinite(f"$.rows[{place}].{column.name}")
        return table


def frame(asked: Sequence[Asked]) -> Any:
    """Make the data frame of several requests, one after the other."""
    import pyarrow as pa

    return values.Table(pa.concat_tables([one.table for one in asked])).pandas()


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
    (_BYTES, lambda _: bytes),  # of an image; in JSON as base64
    (("timestamp",), _time),
    (("date32",), lambda _: dt.date),
)


def plain(value: Any) -> Any:
    """Give a value of a table as a request has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, dt.date) else value
