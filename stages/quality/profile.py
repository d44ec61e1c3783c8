"""Owns the stage that looks at a table: what is in each column, and what is strange about it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stages import columns, kit, values
from stages.features import choice
from stages.quality import facts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MOST_COLUMNS = 500
"""So many are told in full; of others type, kind, gaps and distinct values."""
MOST_CELLS = 50_000_000
"""Rows that repeat are looked for in a table of up to so many."""
MOST_CORRELATED = 100
"""So many columns of numbers are compared with each other."""
CORRELATION_ROWS = 100_000
"""On so many rows, drawn by the seed where there are more."""
MOST_LISTED = 100
"""Pairs, and warnings."""
MANY_GAPS = 0.2
MOSTLY_ONE = 0.98


@kit.stage("quality.profile", libraries=("pandas", "pyarrow", "numpy"))
class Profile(kit.Stage, frozen=True):
    """Look at a table: types, gaps, ranges, frequent values, repeats, correlations, warnings.

    It judges nothing and changes nothing; `quality.expect` is the gate. Facts are of all rows.
    Bounded are: telling prose from categories (10,000 rows), correlations (100 columns, 100,000
    rows), columns told in full (500), the search for repeats (50 million cells); `limits` says
    which of these was reached.
    """

    columns: list[str] = []
    """All, where none are named."""
    correlated: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.95
    """Pairs of columns of at least so much correlation are listed."""

    def run(self, table: values.Table, context: kit.Context) -> values.Report:
        """Look at each column, then at all of them together."""
        columns.require(table, self.columns, "$.columns")
        arrow = table.arrow.select(self.columns) if self.columns else table.arrow
        told = []
        for place, name in enumerate(arrow.column_names):
            context.progress(place / arrow.num_columns, f"looking at {name[:80]}")
            told.append(_column(arrow, place, context.seed))
        repeats = _repeats(arrow, context)
        pairs = _pairs(arrow, told, self.correlated, context)
        return values.Report(_report(arrow, told, repeats, pairs))


def _column(arrow: pa.Table, place: int, seed: int) -> dict[str, Any]:
    array = arrow.column(place)
    told = facts.brief(array, arrow.column_names[place], seed)
    return facts.full(array, told) if place < MOST_COLUMNS else told


def _repeats(arrow: pa.Table, context: kit.Context) -> int | None:
    """Count rows that repeat an earlier one in all columns; None where there are too many cells."""
    import pandas as pd

    if not arrow.num_columns or arrow.num_rows * arrow.num_columns > MOST_CELLS:
        return None if arrow.num_columns else 0
    codes = {}
    for place in range(arrow.num_columns):
        context.check()
        codes[place] = _codes(arrow.column(place))
    return int(pd.DataFrame(codes).duplicated().sum())


def _codes(array: pa.ChunkedArray) -> np.ndarray:
    """Number the values of a column, equal ones alike; a gap among floats is as good as NaN."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    plain = facts.plain(array)
    if pa.types.is_floating(plain.type):
        return facts.numbers(plain)
    try:
        encoded = plain.combine_chunks().dictionary_encode(null_encoding="encode")
    except pa.ArrowNotImplementedError:
        return np.asarray(pd.factorize(np.array([repr(v) for v in plain.to_pylist()], object))[0])
    whole = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(whole.indices)


def _pairs(
    arrow: pa.Table, told: list[dict[str, Any]], least: float, context: kit.Context
) -> list[dict[str, Any]]:
    """List the pairs of columns that say nearly the same, the closest first."""
    import numpy as np
    import pandas as pd

    places = _comparable(told)[:MOST_CORRELATED]
    if len(places) < 2:  # noqa: PLR2004 - a pair has two ends
        return []
    context.check()
    drawn = facts.sampled(arrow.select(places), CORRELATION_ROWS, context.seed)
    found = {n: facts.numbers(facts.plain(drawn.column(n))) for n in range(len(places))}
    frame = pd.DataFrame({n: np.where(np.isfinite(f), f, np.nan) for n, f in found.items()})
    with np.errstate(all="ignore"):
        matrix = frame.corr(min_periods=choice.FEW).to_numpy()
        strong = np.argwhere(np.triu(np.abs(matrix) >= least, k=1))
    pairs = [
        {
            "a": told[places[a]]["name"],
            "b": told[places[b]]["name"],
            "correlation": round(float(matrix[a, b]), 6),
        }
        for a, b in strong
    ]
    return sorted(pairs, key=lambda pair: -abs(pair["correlation"]))


def _comparable(told: list[dict[str, Any]]) -> list[int]:
    kinds = ("number", "boolean")
    return [
        place
        for place, each in enumerate(told)
        if each["kind"] in kinds and (each["distinct"] or 0) > 1
    ]


def _report(
    arrow: pa.Table, told: list[dict[str, Any]], repeats: int | None, pairs: list[dict[str, Any]]
) -> dict[str, Any]:
    warned = [*_of_table(arrow, repeats), *_of_columns(told, arrow.num_rows), *_of_pairs(pairs)]
    gaps = sum(each["nulls"] for each in told)
    return {
        "title": "Profile",
        "summary": _summary(arrow, told, gaps, len(warned)),
        "rows": arrow.num_rows,
        "columns": told,
        "kinds": dict(Counter(each["kind"] for each in told)),
        "bytes": arrow.nbytes,
        "gaps": gaps,
        "duplicates": repeats,
        "constant": [each["name"] for each in told if _is_constant(each)],
        "empty": [each["name"] for each in told if _is_empty(each, arrow.num_rows)],
        "identifiers": [each["name"] for each in told if each.get("identifier")],
        "correlated": pairs[:MOST_LISTED],
        "warnings": warned[:MOST_LISTED],
        "limits": _limits(arrow, told, repeats, len(pairs), len(warned)),
    }


def _summary(arrow: pa.Table, told: list[dict[str, Any]], gaps: int, warned: int) -> str:
    kinds = Counter(each["kind"] for each in told)
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"
    cells = arrow.num_rows * arrow.num_columns
    share = f" ({gaps / cells:.1%} of all values)" if cells else ""
    return (
        f"{arrow.num_rows} rows and {arrow.num_columns} columns ({shown}); "
        f"{gaps} gaps{share}; {warned} warnings"
    )


def _is_constant(told: dict[str, Any]) -> bool:
    return bool(told["distinct"] == 1)


def _is_empty(told: dict[str, Any], rows: int) -> bool:
    return bool(rows and told["nulls"] == rows)


def _of_table(arrow: pa.Table, repeats: int | None) -> list[dict[str, str]]:
    said = []
    if not arrow.num_rows:
        said.append("the table has no rows")
    if repeats:
        said.append(f"{repeats} rows ({repeats / arrow.num_rows:.1%}) repeat an earlier one")
    twice = [name for name, count in Counter(arrow.column_names).items() if count > 1]
    said += [f"several columns have the name {name!r}" for name in twice]
    return [_warning("", text) for text in said]


def _of_columns(told: list[dict[str, Any]], rows: int) -> list[dict[str, str]]:
    return [_warning(each["name"], text) for each in told for text in _strange(each, rows)]


def _strange(told: dict[str, Any], rows: int) -> list[str]:
    """Say in words what is strange about a column."""
    if _is_empty(told, rows):
        return ["it has no value at all"]
    top = (told.get("top") or [{"share": 0.0, "value": None}])[0]
    skew = told.get("skew") or 0.0
    few = (told["distinct"] or 0) <= choice.FEW
    found = {
        f"{told['null_fraction']:.0%} of it is missing": told["null_fraction"] >= MANY_GAPS,
        f"{told.get('nan')} values are NaN": told.get("nan"),
        f"{told.get('infinite')} values are infinite": told.get("infinite"),
        "it has a single value": _is_constant(told),
        f"{top['share']:.0%} of it is {top['value']!r}": top["share"] >= MOSTLY_ONE
        and not _is_constant(told),
        "it is an identifier: every row has its own value": told.get("identifier"),
        f"its tail is long (skew {skew:.1f})": abs(skew) > choice.SKEW and not few,
    }
    return [text for text, holds in found.items() if holds]


def _of_pairs(pairs: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        _warning(pair["a"], f"it says nearly the same as {pair['b']!r} ({pair['correlation']:.3f})")
        for pair in pairs[:MOST_LISTED]
    ]


def _warning(column: str, message: str) -> dict[str, str]:
    return {"column": column, "message": message}


def _limits(
    arrow: pa.Table, told: list[dict[str, Any]], repeats: int | None, pairs: int, warned: int
) -> list[str]:
    """Say what was not looked at in full, and why."""
    comparable, rows = len(_comparable(told)), arrow.num_rows
    texts = [each for each in told if each["kind"] in ("text", "category")]
    found = {
        f"columns after the first {MOST_COLUMNS} are told in brief": len(told) > MOST_COLUMNS,
        f"with over {MOST_CELLS} cells, repeats were not looked for": repeats is None,
        f"correlations are of the first {MOST_CORRELATED} of {comparable} columns of numbers": (
            comparable > MOST_CORRELATED
        ),
        f"correlations are of {CORRELATION_ROWS} rows, drawn by the seed": (
            comparable > 1 and rows > CORRELATION_ROWS
        ),
        f"prose was told from categories by {facts.SAMPLE} rows, drawn by the seed": (
            texts and rows > facts.SAMPLE
        ),
        f"{MOST_LISTED} of {pairs} pairs are listed": pairs > MOST_LISTED,
        f"{MOST_LISTED} of {warned} warnings are listed": warned > MOST_LISTED,
    }
    return [text for text, holds in found.items() if holds]
