"""Owns the stage that compares what a model meets now with what it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from stages import columns, kit, values
from stages.monitor import differences
from stages.quality import facts

if TYPE_CHECKING:
    import pyarrow as pa

MOST_DRAWN = 6
"""Columns whose distributions are kept for the report's plots."""
_FEWEST = 20
"""Rows with a value on each side; less is no ground for a test."""


class Drifted(NamedTuple):
    """What has been found."""

    metrics: values.Metrics
    report: values.Report


@kit.stage("monitor.drift", libraries=("scipy", "pandas", "pyarrow", "numpy"))
class Drift(kit.Stage, frozen=True):
    """Compare a table with a reference, column by column, and say which columns have drifted.

    Numbers and times are compared by the two-sample Kolmogorov-Smirnov test, categories and truths
    by Pearson's chi-square test, texts by their lengths, gaps by Fisher's exact test. Of very many
    rows the least difference is significant: so a column has drifted where its p-value, corrected
    over all columns (Benjamini and Hochberg, 1995), is under `alpha` and the population stability
    index is at least `psi`; or where the share of gaps has grown or shrunk by `gaps`. A column
    that is gone or is of another sort has drifted as well.

    The metrics (`drifted_columns`, `drifted_share`, `worst_psi`) are what a `when` condition of a
    retraining stage looks at; predictions can be compared as any other column.
    """

    columns: list[str] = []
    """All of the reference, where none are named."""
    ignore: list[str] = []
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    psi: Annotated[float, msgspec.Meta(ge=0)] = 0.1
    gaps: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1

    def run(self, reference: values.Table, current: values.Table, context: kit.Context) -> Drifted:
        """Compare every column, then correct over all of them."""
        columns.require(reference, [*self.columns, *self.ignore], "$.columns")
        for table in (reference, current):
            columns.require_rows(table, _FEWEST)
        chosen = [c for c in self.columns or reference.columns if c not in self.ignore]
        rows = []
        for place, name in enumerate(chosen):
            context.progress(place / len(chosen), f"comparing {name[:80]}")
            rows.append(_compared(reference.arrow, current.arrow, name, context.seed))
        self._judge(rows)
        added = [name for name in current.columns if name not in reference.columns]
        return _told(rows, added, reference.rows() or 0, current.rows() or 0)

    def _judge(self, rows: list[dict[str, Any]]) -> None:
        tests = [(row, key) for row in rows for key in ("p_value", "gaps_p_value") if key in row]
        found = differences.corrected([row[key] for row, key in tests])
        for (row, key), p_value in zip(tests, found, strict=True):
            row[key] = p_value
        for row in rows:
            row["why"] = "; ".join(self._reasons(row))
            row["drifted"] = bool(row["why"])

    def _reasons(self, row: dict[str, Any]) -> list[str]:
        """Say what is different about a column, if it is different enough."""
        said = [row["lost"]] if "lost" in row else []
        if row.get("p_value", 1.0) < self.alpha and row["psi"] >= self.psi:
            said.append(f"its values are distributed otherwise (psi {row['psi']:.3g})")
        change = row.get("gaps_now", 0.0) - row.get("gaps_before", 0.0)
        if row.get("gaps_p_value", 1.0) < self.alpha and abs(change) >= self.gaps:
            said.append(f"{row['gaps_now']:.1%} is missing (was {row['gaps_before']:.1%})")
        return said


def _compared(before: pa.Table, now: pa.Table, name: str, seed: int) -> dict[str, Any]:
    """Describe how a column differs; p-values are not corrected yet."""
    if name not in now.column_names:
        return {"column": name, "kind": "", "lost": "the column is gone"}
    old, new = facts.plain(before[name]), facts.plain(now[name])
    kind = facts.brief(old, name, seed)["kind"]
    row: dict[str, Any] = {"column": name, "kind": kind}
    was, became = columns.sort(old.type), columns.sort(new.type)
    if was != became:
        return row | {"lost": f"it is of type {now[name].type} (was {before[name].type})"}
    counts = [(each.null_count, len(each)) for each in (old, new)]
    row |= {
        "gaps_before": counts[0][0] / counts[0][1],
        "gaps_now": counts[1][0] / counts[1][1],
        "gaps_p_value": differences.gaps_differ(counts[0], counts[1]),
    }
    found = _difference(old, new, kind, seed)
    return row | (msgspec.structs.asdict(found) if found else {"test": "none"})


def _difference(
    old: pa.ChunkedArray, new: pa.ChunkedArray, kind: facts.Kind, seed: int
) -> differences.Difference | None:
    """Compare the values of a column; None where there are too few, or nothing compares them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "other":
        return None
    if kind == "time":
        old, new = (each.cast(pa.timestamp("us")).cast(pa.int64()) for each in (old, new))
    elif kind == "text":
        old, new = pc.utf8_length(old), pc.utf8_length(new)
    numeric = kind in ("number", "time", "text")
    if min(_present(each, numeric=numeric) for each in (old, new)) < _FEWEST:
        return None
    return (
        differences.of_numbers(old, new, seed) if numeric else differences.of_categories(old, new)
    )


def _present(array: pa.ChunkedArray, *, numeric: bool) -> int:
    import pyarrow.compute as pc

    if numeric:
        return int(
            pc.sum(pc.is_finite(facts.plain(array).cast("float64", safe=False))).as_py() or 0
        )
    return len(array) - array.null_count


def _told(rows: list[dict[str, Any]], added: list[str], before: int, now: int) -> Drifted:
    rows.sort(key=lambda row: (not row["drifted"], -row.get("psi", float("inf"))))
    drifted = [row["column"] for row in rows if row["drifted"]]
    worst = max((row["psi"] for row in rows if "psi" in row), default=0.0)
    metrics = {
        "drifted_columns": float(len(drifted)),
        "drifted_share": len(drifted) / max(1, len(rows)),
        "worst_psi": worst,
    }
    drawn = [row for row in rows if "labels" in row][:MOST_DRAWN]
    shapes = [{key: row[key] for key in ("column", "labels", "before", "now")} for row in drawn]
    sizes = [{"column": row["column"], "psi": row["psi"]} for row in rows if "psi" in row]
    told = [{key: row.get(key) for key in _SHOWN} for row in rows]
    summary = (
        f"{len(drifted)} of {len(rows)} columns have drifted ({before} rows before, {now} now)"
    )
    report = {
        "title": "Drift",
        "summary": summary,
        "drifted": drifted,
        "added": added,
        "not_compared": [row["column"] for row in rows if row.get("test") == "none"],
        "columns": told,
    }
    details = {"drift": {"sizes": sizes, "shapes": shapes}, "task": "drift"}
    return Drifted(values.Metrics(metrics, details), values.Report(report))


_SHOWN = ("column", "kind", "drifted", "why", "psi", "test", "statistic", "p_value", "gaps_before")
_SHOWN += ("gaps_now", "gaps_p_value")
