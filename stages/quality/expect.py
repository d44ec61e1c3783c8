"""Owns the gate: rows that do not meet what is expected fail, go, are mended or set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stages import columns, kit, values
from stages.quality import rules

if TYPE_CHECKING:
    import numpy as np

_SHOWN = 5


class Unexpected(kit.DataFault):
    """The data does not meet what is expected of it."""

    def __init__(self, findings: list[dict[str, Any]]) -> None:
        shown = "; ".join(finding["message"] for finding in findings[:_SHOWN])
        more = f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        super().__init__(
            f"the data is not as expected: {shown}{more}",
            hint="mend the source, change what is expected, or choose the action drop, "
            "impute or quarantine",
            path=findings[0]["path"],
        )
        self.findings = findings


class Checked(NamedTuple):
    """The rows that passed, those set aside, and what was found."""

    table: values.Table
    quarantined: values.Table
    report: values.Report
    metrics: values.Metrics


@kit.stage("quality.expect", libraries=("pandas", "pyarrow", "numpy"))
class Expect(kit.Stage, frozen=True):
    """Check a table against what is expected; fail, drop, impute or set aside what breaks it."""

    columns: dict[str, rules.Expected] = {}
    required: list[str] = []
    min_rows: int | None = None
    max_rows: int | None = None
    action: rules.Action = "fail"

    def run(self, table: values.Table) -> Checked:
        """Check, then act."""
        columns.require(table, self.required, "$.required")
        columns.require(table, list(self.columns), "$.columns")
        findings, masks = self._look(table)
        if failed := [finding for finding in findings if finding["action"] == "fail"]:
            raise Unexpected(failed)
        checked = _act(table, self.columns, masks, findings)
        if short := list(self._sizes(int(checked.table.arrow.num_rows))):
            raise Unexpected(short)
        return checked

    def _look(
        self, table: values.Table
    ) -> tuple[list[dict[str, Any]], list[tuple[str, rules.Action, np.ndarray]]]:
        findings, masks = [], []
        for name, expected in self.columns.items():
            action, path = expected.action or self.action, f"$.columns.{name}"
            for rule, found in rules.broken_whole(table, name, expected):
                message = f"column {name!r}, {rule}: {found}"
                findings.append(_finding(name, rule, "fail", 0, [], message))
            for rule, mask in rules.broken_rows(table, name, expected, path):
                if count := int(mask.sum()):
                    rows = [int(row) for row in mask.nonzero()[0][:_SHOWN]]
                    message = f"column {name!r}, {rule}: {count} rows, the first are {rows}"
                    findings.append(_finding(name, rule, action, count, rows, message))
                    masks.append((name, action, mask))
        return findings, masks

    def _sizes(self, rows: int) -> list[dict[str, Any]]:
        low, high = self.min_rows, self.max_rows
        found = []
        if low is not None and rows < low:
            found.append(("min_rows", f"{rows} rows remain, and at least {low} are expected"))
        if high is not None and rows > high:
            found.append(("max_rows", f"{rows} rows remain, and at most {high} are expected"))
        return [{"path": f"$.{rule}", "expectation": rule, "message": text} for rule, text in found]


def _finding(  # noqa: PLR0917 - a row of the report
    name: str, rule: str, action: str, count: int, rows: list[int], message: str
) -> dict[str, Any]:
    return {
        "column": name,
        "expectation": rule,
        "action": action,
        "count": count,
        "rows": rows,
        "message": message,
        "path": f"$.columns.{name}",
    }


def _act(
    table: values.Table,
    expected: dict[str, rules.Expected],
    masks: list[tuple[str, rules.Action, np.ndarray]],
    findings: list[dict[str, Any]],
) -> Checked:
    import numpy as np

    arrow = table.arrow
    aside, gone = np.zeros(arrow.num_rows, bool), np.zeros(arrow.num_rows, bool)
    mend: dict[str, np.ndarray] = {}
    for name, action, mask in masks:
        if action == "quarantine":
            aside |= mask
        elif action == "drop":
            gone |= mask
        else:
            mend[name] = mend.get(name, np.zeros(arrow.num_rows, bool)) | mask
    quarantined = arrow.filter(aside)
    for name, mask in mend.items():
        arrow = _imputed(arrow, name, mask, aside | gone, expected[name].impute)
    kept = arrow.filter(~(aside | gone))
    numbers = {
        "rows": float(kept.num_rows),
        "quarantined": float(aside.sum()),
        "dropped": float((gone & ~aside).sum()),
        "imputed": float(sum(mask.sum() for mask in mend.values())),
    }
    report = {"title": "Expectations", "summary": numbers, "findings": findings}
    return Checked(
        values.Table(kept),
        values.Table(quarantined),
        values.Report(report),
        values.Metrics(numbers),
    )


def _imputed(arrow: Any, name: str, mask: np.ndarray, out: np.ndarray, how: Any) -> Any:
    import pyarrow as pa

    column = arrow[name]
    good = column.filter(~(mask | out)).to_pandas().dropna()
    fill = how
    if how in ("median", "mean", "mode"):
        fill = _typical(good, name, how)
    series = column.to_pandas().astype(object).where(~mask, fill)
    series = series.where(series.notna(), None)
    kind = column.type
    if isinstance(fill, float) and pa.types.is_integer(kind) and not fill.is_integer():
        kind = pa.float64()
    try:
        mended = pa.array(series.tolist(), type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        msg = f"the column {name!r} of type {kind} can't hold {fill!r}"
        raise kit.DataFault(msg, path=f"$.columns.{name}.impute") from error
    return arrow.set_column(arrow.column_names.index(name), name, mended)


def _typical(good: Any, name: str, how: str) -> Any:
    path = f"$.columns.{name}.impute"
    if good.empty:
        msg = f"the column {name!r} has no good value to impute from"
        raise kit.DataFault(msg, hint="name a constant", path=path)
    if how == "mode":
        return good.mode().iloc[0]
    if good.dtype.kind not in "iuf":
        msg = f"the {how} of the column {name!r} can't be taken: it does not hold numbers"
        raise kit.DataFault(msg, hint="impute the mode or a constant", path=path)
    return float(getattr(good, how)())
