"""Owns the making of Arrow columns from Python values, chunk by chunk."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages import kit
from stages.ingest import text

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES = {
    "bool": "true and false",
    "int": "whole numbers",
    "float": "numbers",
    "decimal": "decimal numbers",
    "text": "texts",
    "bytes": "bytes",
    "instant": "times with a zone",
    "time": "times without a zone",
    "date": "dates",
    "clock": "times of day",
    "span": "durations",
    "nested": "lists and objects",
}
_WIDER = {
    frozenset({"int", "float"}): "float",
    frozenset({"int", "decimal"}): "decimal",
    frozenset({"decimal", "float"}): "float",
}
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "bool"),  # before int, which it is a kind of; as datetime is of date
    (int, "int"),
    (float, "float"),
    (str, "text"),
    (bytes, "bytes"),
    (dt.date, "date"),
    (dt.time, "clock"),
    (dt.timedelta, "span"),
    ((list, dict), "nested"),
)
_EXACT = 2**53
_MOST_DIGITS, _MOST_DIGITS_128 = 76, 38


class MixedTypes(text.MixedTypes):
    """A column holds values of several types, which the source itself can mend."""

    def __init__(self, column: str, usual: str, samples: list[str]) -> None:
        super().__init__(column, usual, samples)
        self.hint = "mend the source, cast the column there, or set mixed to 'text'"


class Unfit(kit.DataFault):
    """A column's values do not fit an Arrow type."""

    def __init__(self, column: str, kind: str, reason: str) -> None:
        super().__init__(
            f"the column {column!r} does not fit {kind}: {reason}",
            hint="cast it at the source, in the query if there is one",
        )
        self.column = column


class Column:
    """One column as it grows: declared by its source, or of the kind that its values have."""

    def __init__(
        self,
        name: str,
        mixed: text.Mixed,
        *,
        declared: pa.DataType | None = None,
        otherwise: pa.DataType | None = None,
        nested: bool = False,
    ) -> None:
        self.name = name
        self._mixed = mixed
        self._declared = declared
        self._otherwise = otherwise
        """What it is if all its values are gaps; text where not given."""
        self._nested = nested
        """Lists and objects stay so; else they become JSON texts."""
        self._kind: str | None = None
        self._chunks: list[tuple[str | None, pa.Array]] = []

    def add(self, found: Sequence[Any]) -> int:
        """Take a chunk of values and give the bytes they take; raise MixedTypes or Unfit."""
        plain = [self._plain(value) for value in found]
        kind = None
        if self._declared is None:
            kind = self._kind_of(plain)
            plain = [_converted(self.name, value, kind) for value in plain]
        array = self._array(plain, self._declared or _arrow_type(kind))
        self._chunks.append((kind, array))
        return int(array.nbytes)

    def _plain(self, value: Any) -> Any:
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, decimal.Decimal):
            return value if value.is_finite() or self._declared else float(value)
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        if isinstance(value, dict | list) and not self._nested and not _is_list(self._declared):
            return json.dumps(value, ensure_ascii=False, default=str)
        return value if _kind(value) else str(value)

    def _kind_of(self, plain: list[Any]) -> str | None:
        """Give the kind of these values and all before them."""
        for value in plain:
            kind = _kind(value)
            if kind is not None and kind != self._kind:
                self._kind = self._joined(kind, value)
        return self._kind

    def _joined(self, kind: str, value: Any) -> str:
        if self._kind is None:
            return kind
        if wider := _WIDER.get(frozenset({self._kind, kind})):
            return wider
        if self._mixed == "text":
            return "text"
        raise MixedTypes(self.name, _NAMES[self._kind], [f"{_NAMES[kind]}, as {str(value)[:40]!r}"])

    def _array(self, plain: list[Any], kind: pa.DataType | None) -> pa.Array:
        import pyarrow as pa

        try:
            return pa.array(plain, type=kind)
        except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
            raise Unfit(self.name, str(kind or "a type"), str(error).splitlines()[0]) from error

    def whole(self) -> pa.ChunkedArray:
        """Give all the chunks as one type."""
        import pyarrow as pa

        chunks = [self._recast(kind, array) for kind, array in self._chunks]
        kind = self._declared or self._common(chunks)
        return pa.chunked_array([chunk.cast(kind) for chunk in chunks], type=kind)

    def _recast(self, kind: str | None, array: pa.Array) -> pa.Array:
        if self._declared is not None or kind is None or kind == self._kind:
            return array
        values = [_converted(self.name, value, self._kind) for value in array.to_pylist()]
        return self._array(values, _arrow_type(self._kind))

    def _common(self, chunks: list[pa.Array]) -> pa.DataType:
        import pyarrow as pa

        kinds = [chunk.type for chunk in chunks if not pa.types.is_null(chunk.type)]
        if not kinds:
            return self._otherwise or pa.string()
        if self._kind == "decimal":
            return self._decimal(kinds)
        try:
            schemas = [pa.schema([(self.name, kind)]) for kind in kinds]
            return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except pa.ArrowException as error:
            raise MixedTypes(self.name, _NAMES["nested"], [str(error).splitlines()[0]]) from error

    def _decimal(self, kinds: list[Any]) -> pa.DataType:
        import pyarrow as pa

        scale = max(kind.scale for kind in kinds)
        digits = max(kind.precision - kind.scale for kind in kinds) + scale
        if digits > _MOST_DIGITS:
            raise Unfit(self.name, "a decimal", f"it takes {digits} digits")
        make = pa.decimal128 if digits <= _MOST_DIGITS_128 else pa.decimal256
        return make(digits, scale)


def _is_list(kind: Any) -> bool:
    return kind is not None and str(kind).startswith("list")


def _kind(value: Any) -> str | None:
    if isinstance(value, decimal.Decimal):
        return "decimal"
    if isinstance(value, dt.datetime):
        return "time" if value.tzinfo is None else "instant"
    return next((kind for types, kind in _KINDS if isinstance(value, types)), None)


def _converted(column: str, value: Any, kind: str | None) -> Any:
    """Write a value as its column's kind; raise Unfit where that would change a number."""
    if value is None or kind not in {"float", "decimal", "text"}:
        return value
    if kind == "text":
        return _text(value)
    if kind == "decimal":
        return decimal.Decimal(value)
    if isinstance(value, int) and abs(value) > _EXACT:
        raise Unfit(column, "double", f"{value} has no exact place among fractions")
    return float(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)


def _arrow_type(kind: str | None) -> pa.DataType | None:
    import pyarrow as pa

    known = {
        None: pa.null(),
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "text": pa.string(),
        "bytes": pa.binary(),
        "instant": pa.timestamp("us", "UTC"),
        "time": pa.timestamp("us"),
        "date": pa.date32(),
        "clock": pa.time64("us"),
        "span": pa.duration("us"),
    }
    return known.get(kind)
