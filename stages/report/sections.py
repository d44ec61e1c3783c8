"""Owns what a report says: metrics and details turned into the sections of the page."""

from __future__ import annotations

import math
from typing import Any

from stages import values
from stages.report import charts

LOWER_IS_BETTER = frozenset({"rmse", "mae", "smape", "mape", "mase", "log_loss", "brier"})
MOST_ROWS = 20
_DIGITS = 4
_BIG = 1e5


def number(value: Any) -> str:
    """Write a number as a person would."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "-"
    if float(value).is_integer() and abs(value) < _BIG:
        return str(int(value))
    return f"{value:.{_DIGITS}g}"


def headline(metrics: values.Metrics | None) -> list[dict[str, Any]]:
    """List the metrics beside the baseline's, with intervals and who is better."""
    if metrics is None:
        return []
    details = metrics.details
    base = details.get("baseline", {}).get("values", {})
    rows = []
    for name, value in metrics.values.items():
        if name.startswith("baseline_"):
            continue
        low, high = details.get("intervals", {}).get(name, (None, None))
        naive = base.get(name)
        rows.append(
            {
                "name": name,
                "value": number(value),
                "interval": "" if low is None else f"{number(low)} to {number(high)}",
                "baseline": "" if naive is None else number(naive),
                "verdict": "" if naive is None else _verdict(name, value, naive),
            }
        )
    return rows


def _verdict(name: str, value: float, naive: float) -> str:
    if math.isclose(value, naive):
        return "equal"
    return "better" if (value < naive) == (name in LOWER_IS_BETTER) else "worse"


def plots(details: dict[str, Any]) -> list[dict[str, Any]]:
    """Draw what the details hold."""
    found = details.get("drift") or {}
    return [*_values(details), *_classes(details), *_importances(details), *_drift(found)]


def _values(details: dict[str, Any]) -> list[dict[str, Any]]:
    found = details.get("series")
    if not found or not found.get("actual"):
        return []
    actual, predicted = found["actual"], found["predicted"]
    errors = [p - a for a, p in zip(actual, predicted, strict=True)]
    forecast = details.get("task") == "forecast"
    drawn = [_plot("Over time" if forecast else "Row by row", charts.series(found), wide=True)]
    drawn.append(_plot("Predicted against actual", charts.scatter(actual, predicted)))
    drawn.append(_plot("Errors", charts.residuals(errors)))
    return drawn


def _classes(details: dict[str, Any]) -> list[dict[str, Any]]:
    drawn = []
    if roc := details.get("roc"):
        title = f"ROC curve, area {number(roc['auc'])}"
        labels = ("false positive rate", "true positive rate")
        drawn.append(_plot(title, charts.curve("roc", title, roc["fpr"], roc["tpr"], labels)))
    if pr := details.get("pr"):
        title = f"Precision and recall, average precision {number(pr['ap'])}"
        labels = ("recall", "precision")
        plot = charts.curve("pr", title, pr["recall"], pr["precision"], labels)
        drawn.append(_plot(title, plot))
    return drawn


def _importances(details: dict[str, Any]) -> list[dict[str, Any]]:
    found = (details.get("importances") or [])[:MOST_ROWS]
    if not found:
        return []
    title = "What the model relies on"
    names = [str(row["feature"]) for row in found]
    sizes, spread = ([float(row.get(key, 0)) for row in found] for key in ("mean", "std"))
    return [_plot(title, charts.bars("importances", title, names, sizes, spread), wide=True)]


def _drift(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Draw how far each column has moved, and the distributions of those that moved most."""
    sizes = found.get("sizes", [])[:MOST_ROWS]
    if not sizes:
        return []
    title = "How far each column has moved (population stability index)"
    names, moved = [str(row["column"]) for row in sizes], [float(row["psi"]) for row in sizes]
    plot = charts.bars("drift", title, names, moved, [0.0] * len(moved))
    drawn = [_plot(title, plot, wide=True)]
    for place, row in enumerate(found.get("shapes", [])):
        named = f"{row['column']}: share of rows, before and now"
        shares = (row["before"], row["now"])
        drawn.append(_plot(named, charts.pairs(f"drift-{place}", named, row["labels"], shares)))
    return drawn


def _plot(title: str, svg: Any, *, wide: bool = False) -> dict[str, Any]:
    return {"title": title, "svg": svg, "wide": wide}


def confusion(details: dict[str, Any]) -> dict[str, Any] | None:
    """Lay a confusion matrix out, each cell with its share of the row for shading."""
    found = details.get("confusion")
    if not found or len(found["labels"]) > charts.MOST_LABELS:
        return None
    rows = []
    for label, counts in zip(found["labels"], found["matrix"], strict=True):
        total = sum(counts) or 1
        cells = [{"count": int(count), "share": round(count / total, 2)} for count in counts]
        rows.append({"label": str(label), "cells": cells})
    return {"labels": [str(label) for label in found["labels"]], "rows": rows}


def search(*sources: dict[str, Any]) -> dict[str, Any] | None:
    """Lay out the trials of a search, from the first source that has some."""
    trials: list[dict[str, Any]] = next(
        (s["trials"] for s in sources if isinstance(s.get("trials"), list)), []
    )
    scored = [t for t in trials if isinstance(t.get("score"), int | float)]
    if not scored:
        return None
    numbers = [int(trial.get("number", place)) for place, trial in enumerate(scored)]
    rows = [
        {
            "number": place,
            "params": ", ".join(f"{k}={number(v)}" for k, v in trial.get("params", {}).items()),
            "score": number(trial["score"]),
            "std": number(trial.get("std", "")),
        }
        for place, trial in zip(numbers, scored, strict=True)
    ]
    plot = charts.trials(numbers, [float(t["score"]) for t in scored]) if rows[1:] else None
    return {"rows": rows, "plot": plot}


def report(given: values.Report | None, fallback: str) -> dict[str, Any] | None:
    """Lay a report out: its title and summary, tables of what is a list of rows, plain facts."""
    if given is None or not isinstance(given.data, dict):
        return None
    data = given.data
    rest = {key: value for key, value in data.items() if key not in ("title", "summary", "trials")}
    return {
        "title": data.get("title", fallback),
        "summary": _said(data.get("summary", "")),
        "facts": {key: _said(value) for key, value in rest.items() if not _rows(value)},
        "tables": [table(key, _rows(value)) for key, value in rest.items() if _rows(value)],
    }


def _rows(value: Any) -> list[dict[str, Any]]:
    """See a list of objects, or an object of objects, as rows."""
    if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
        return [{"name": key, **row} for key, row in value.items()]
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return value
    return []


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_said(item)}" for key, item in list(value.items())[:MOST_ROWS])
    if isinstance(value, list):
        more = " …" if len(value) > MOST_ROWS else ""
        return ", ".join(_said(item) for item in value[:MOST_ROWS]) + more
    return "" if value is None else number(value)


def table(title: str, rows: list[dict[str, Any]], most: int = 200) -> dict[str, Any]:
    """Lay rows out as a table of texts."""
    names = list(dict.fromkeys(name for row in rows[:most] for name in row))
    cells = [[_said(row.get(name)) for name in names] for row in rows[:most]]
    return {"title": title.replace("_", " "), "names": names, "cells": cells, "of": len(rows)}
