"""Owns what is told of one column: gaps, range, spread, values, and of what kind it is.

Numbers are told of finite values alone, and nothing that is not finite is ever told: JSON has no
word for it. Only the words of text are counted on a sample; all else is of every row.
"""

from __future__ import annotations

import decimal
import math
from typing import TYPE_CHECKING, Any, Literal

from stages import columns
from stages.features import choice

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Kind = Literal["number", "boolean", "time", "category", "text", "other"]
"""`text` is prose or code, which has words to weigh; other text is a `category`."""

TOP = 5
SAMPLE = 10_000
"""Texts of so many rows are looked at to tell prose from categories."""
BINS = 20
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_WIDTH = 80
"""Characters of a text that are shown."""
_LARGEST = 2**53
"""Up to so much, JSON's numbers are whole in every language."""


def brief(array: pa.ChunkedArray, name: str, seed: int) -> dict[str, Any]:
    """Tell what is told of every column, however many there are."""
    values = plain(array)
    sort = columns.sort(values.type)
    distinct = _distinct(values)
    return {
        "name": name,
        "type": str(array.type),
        "kind": _kind(values, sort, distinct, seed),
        "nulls": array.null_count,
        "null_fraction": _rounded(array.null_count / len(array)) if len(array) else 0.0,
        "distinct": distinct,
    }


def full(array: pa.ChunkedArray, told: dict[str, Any]) -> dict[str, Any]:
    """Tell more: of numbers their spread, of times their range, of text its length."""
    values = plain(array)
    present = values.drop_null()
    if not len(present):
        return told
    sort = columns.sort(values.type)
    if sort == "number":
        told = told | _number(present)
    elif sort == "time":
        told = told | _time(present)
    elif sort == "text":
        told = told | _text(present)
    if told["kind"] in ("category", "boolean") or _is_code(told):
        told = told | {"top": _top(present, len(values))}
    return told | ({"identifier": True} if _is_identifier(present, told) else {})


def plain(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give the values of a column in a form that everything can be computed on."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        return plain(array.cast(array.type.value_type))
    if pa.types.is_float16(array.type):
        return array.cast(pa.float64())
    return array.cast(pa.large_string()) if columns.sort(array.type) == "text" else array


def numbers(array: pa.ChunkedArray) -> np.ndarray:
    """Give a column of numbers or truths as floats; gaps become NaN."""
    import pyarrow as pa

    floats: np.ndarray = array.cast(pa.float64(), safe=False).to_numpy()
    return floats


def _distinct(array: pa.ChunkedArray) -> int | None:
    """Count the values that differ, gaps aside; None for a type whose values can't be compared."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if array.null_count == len(array):
        return 0
    try:
        return int(pc.count_distinct(array).as_py())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return None


def _kind(array: pa.ChunkedArray, sort: columns.Sort, distinct: int | None, seed: int) -> Kind:
    if sort != "text":
        return sort
    prose = (distinct or 0) > choice.FEW and _words(array, seed) >= choice.WORDS
    return "text" if prose else "category"


def _words(array: pa.ChunkedArray, seed: int) -> float:
    """Count words a text on average."""
    import pyarrow.compute as pc

    texts = sampled(array.drop_null(), SAMPLE, seed)
    return float(pc.mean(pc.count_substring_regex(texts, r"\S+")).as_py() or 0)


def sampled(array: Any, size: int, seed: int) -> Any:
    """Draw rows of a column or table, in their order; all of them where they are few."""
    import numpy as np

    rows = len(array)
    if rows <= size:
        return array
    drawn = np.random.default_rng(seed).choice(rows, size, replace=False)
    return array.take(np.sort(drawn))


def _number(present: pa.ChunkedArray) -> dict[str, Any]:
    import numpy as np

    found = numbers(present)
    finite = found[np.isfinite(found)]
    told: dict[str, Any] = {
        "nan": int(np.isnan(found).sum()),
        "infinite": int(np.isinf(found).sum()),
    }
    if not len(finite):
        return told
    return told | _range(present, finite) | _spread(finite)


def _range(present: pa.ChunkedArray, finite: np.ndarray) -> dict[str, Any]:
    """Give the ends of a column: of whole numbers exactly, where JSON can hold them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ends: Any = {"min": finite.min(), "max": finite.max()}
    if pa.types.is_integer(present.type):
        ends = pc.min_max(present).as_py()
    told = {key: _exact(ends[key]) for key in ("min", "max")}
    return told | {"zeros": int((finite == 0).sum()), "negatives": int((finite < 0).sum())}


def _exact(value: Any) -> float | int | None:
    if isinstance(value, int) and abs(value) <= _LARGEST:
        return value
    return _rounded(float(value))


def _spread(finite: np.ndarray) -> dict[str, Any]:
    import numpy as np

    with np.errstate(all="ignore"):
        quantiles = np.quantile(finite, QUANTILES)
        moments = {key: _rounded(value) for key, value in _moments(finite).items()}
    named = zip(QUANTILES, quantiles, strict=True)
    return moments | {
        "quantiles": {f"{share:g}": _rounded(value) for share, value in named},
        "histogram": _histogram(finite),
    }


def _moments(finite: np.ndarray) -> dict[str, Any]:
    """Compute mean, deviation and skew; what overflows is left untold."""
    if finite.min() == finite.max():
        return {"mean": finite[0], "std": 0.0 if len(finite) > 1 else math.nan, "skew": 0.0}
    mean = finite.mean()
    off = finite - mean
    skew = (off**3).mean() / (off**2).mean() ** 1.5
    return {"mean": mean, "std": finite.std(ddof=1), "skew": skew}


def _histogram(finite: np.ndarray) -> dict[str, Any] | None:
    """Count in bins of one width; None where the range is too wide or too narrow to cut."""
    import numpy as np

    try:
        with np.errstate(all="ignore"):
            counts, edges = np.histogram(finite, bins=BINS)
    except (ValueError, IndexError, OverflowError):
        return None
    if not np.isfinite(edges).all():
        return None
    return {"edges": [_rounded(edge) for edge in edges], "counts": [int(n) for n in counts]}


def _rounded(value: Any) -> float | None:
    """Give a number to ten digits, the largest ones as they are; None where it is not finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.10g}")
    return short if math.isfinite(short) else float(value)


def _time(present: pa.ChunkedArray) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = present.type
    if pa.types.is_timestamp(kind) and kind.tz:
        present = present.cast(pa.timestamp(kind.unit, "UTC"))
    ends = pc.min_max(present)
    return {key: _moment(ends[key]) for key in ("min", "max")}


def _moment(value: Any) -> str | None:
    """Write a time as ISO 8601; None for one that lies beyond all calendars."""
    import pyarrow as pa

    written = str(value.cast(pa.string()).as_py())
    return None if written.startswith("<") else written.replace(" ", "T", 1)


def _text(present: pa.ChunkedArray) -> dict[str, Any]:
    import pyarrow.compute as pc

    lengths = pc.utf8_length(present)
    ends = pc.min_max(lengths).as_py()
    return {
        "min_length": ends["min"],
        "max_length": ends["max"],
        "mean_length": _rounded(pc.mean(lengths).as_py()),
        "empty": int(pc.sum(pc.equal(lengths, 0)).as_py()),
    }


def _is_code(told: dict[str, Any]) -> bool:
    """Tell numbers that may stand for categories."""
    return told["kind"] == "number" and 0 < (told["distinct"] or 0) <= choice.FEW


def _top(present: pa.ChunkedArray, rows: int) -> list[dict[str, Any]]:
    """List the most frequent values; of equally frequent ones those that come first."""
    import numpy as np
    import pyarrow.compute as pc

    counted = pc.value_counts(present)
    counts = counted.field("counts").to_numpy()
    first = np.argsort(-counts, kind="stable")[:TOP]
    found = counted.field("values").take(first).to_pylist()
    return [
        {"value": _shown(value), "count": int(count), "share": _rounded(count / rows)}
        for value, count in zip(found, counts[first], strict=True)
    ]


def _shown(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | decimal.Decimal):
        return _exact(value) if math.isfinite(value) else str(value)
    text = str(value)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"


def _is_identifier(present: pa.ChunkedArray, told: dict[str, Any]) -> bool:
    """Tell what names a row: text of its own in each, or whole numbers that count the rows."""
    import pyarrow as pa

    distinct = told["distinct"] or 0
    if distinct <= choice.FEW:
        return False
    if told["kind"] == "category":
        return distinct >= choice.UNIQUE * len(present)
    whole = pa.types.is_integer(present.type) and told["nulls"] == 0
    return bool(whole and distinct == len(present) and _counts_up(told))


def _counts_up(told: dict[str, Any]) -> bool:
    low, high = told["min"], told["max"]
    return isinstance(low, int) and isinstance(high, int) and high - low == told["distinct"] - 1
