"""Owns the choice of an encoder for a column by what is in it, with the reason for it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from stages import columns, values

Choice = Literal["number", "skewed", "category", "many", "hashed", "text", "drop"]
MOSTLY_MISSING = 0.95
FEW = 20
"""Up to so many categories get a column each."""
WORDS = 3
"""Text of so many words on average is prose, not a category."""
UNIQUE = 0.95
SKEW = 3.0
SAME = 0.9999
ROWS_FOR_MEANS = 200
"""A target encoder needs so many rows for its means to say something."""


class Look(msgspec.Struct, frozen=True):
    """What was seen of a column, and what follows."""

    column: str
    choice: Choice
    reason: str
    missing: float = 0.0
    distinct: int = 0


def choose(table: values.Table, column: str, target: str | None, *, forecast: bool = False) -> Look:
    """Look at a column of the training rows and choose."""
    import pyarrow.compute as pc

    array = table.arrow[column]
    rows = max(1, len(array))
    sort = columns.sort(array.type)
    distinct = int(pc.count_distinct(array).as_py()) if sort != "other" else 0
    missing = array.null_count / rows
    choice, reason = _useless(array, sort, distinct, missing)
    if choice is None and target is not None and _gives_away(table, column, target, sort):
        choice, reason = "drop", f"it gives the target {target!r} away"
    if choice is None:
        choice, reason = _useful(array, sort, distinct, forecast=forecast, aimed=target is not None)
    return Look(column, choice, reason, round(missing, 4), distinct)


def _useless(
    array: Any, sort: columns.Sort, distinct: int, missing: float
) -> tuple[Choice | None, str]:
    if sort == "other":
        return "drop", f"no encoder takes the type {array.type}"
    if sort == "time":
        return "drop", "a time as such; features.dates makes calendar columns of it"
    if missing > MOSTLY_MISSING:
        return "drop", f"{missing:.0%} of it is missing"
    if distinct <= 1:
        return "drop", "it has a single value"
    if _is_id(array, sort, distinct):
        return "drop", "an identifier: every row has its own value"
    return None, ""


def _is_id(array: Any, sort: columns.Sort, distinct: int) -> bool:
    """Tell an identifier: text of its own in each row, or whole numbers that count the rows."""
    import numpy as np
    import pyarrow as pa

    present = array.drop_null()
    if sort == "text":
        return distinct > FEW and distinct >= UNIQUE * len(present) and _words(present) < WORDS
    if not pa.types.is_integer(array.type) or distinct != len(array) or distinct <= FEW:
        return False
    return bool((np.diff(np.sort(present.to_numpy())) == 1).all())


def _words(present: Any) -> float:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = present.cast(pa.string())
    return float(pc.mean(pc.count_substring_regex(texts, r"\S+")).as_py() or 0)


def _gives_away(table: values.Table, column: str, target: str, sort: columns.Sort) -> bool:
    """Tell a copy of the target: the same numbers up to scale, or one value for each class."""
    frame = table.arrow.select([column, target]).to_pandas().dropna()
    if len(frame) < FEW:
        return False
    aim = columns.sort(table.arrow.schema.field(target).type)
    if sort == "number" and aim in ("number", "boolean"):
        pair = frame.astype("float64")
        if (pair.nunique() > 1).all() and abs(pair.corr().iloc[0, 1]) > SAME:
            return True
    classes = frame[target].nunique()
    if sort == "number" or classes > FEW or frame[column].nunique() < classes:
        return False
    return bool(frame[column].nunique() == classes == len(frame.drop_duplicates()))


def _useful(
    array: Any, sort: columns.Sort, distinct: int, *, forecast: bool, aimed: bool
) -> tuple[Choice, str]:
    if sort == "number":
        return _number(array)
    if sort == "text" and distinct > FEW and _words(array.drop_null()) >= WORDS:
        return "text", "prose: words are weighed by how rare they are"
    if distinct <= FEW:
        return "category", f"{distinct} categories: a column each"
    if forecast or not aimed or len(array) < ROWS_FOR_MEANS:
        return "hashed", f"{distinct} categories: hashed into a fixed number of columns"
    return "many", f"{distinct} categories: replaced by the target's mean, cross-fitted"


def _number(array: Any) -> tuple[Choice, str]:
    skew = array.to_pandas().astype("float64").skew()
    if abs(skew) > SKEW:
        return "skewed", f"numbers with long tails (skew {skew:.1f}): scaled by rank"
    return "number", "numbers: gaps get the median, one scale for all"
