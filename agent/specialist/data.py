"""Owns the training data as the specialist sees it: read, checked, split into X and y."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agent.specialist import estimators, faults
from protocol import training

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

NAMED_AT_MOST = 5


class Facts(msgspec.Struct, frozen=True):
    """What the checks found, small enough to travel back to the event loop."""

    task: training.Task
    rows: int
    columns: list[tuple[str, str]]
    """Name and Arrow type of each column the model takes."""
    classes: list[Any] = []


def check(request: training.TrainingRequest, table: pa.Table) -> Facts:
    """Check that the table can be learned from; raise a TrainingFault that says why not."""
    _check_columns(request, table)
    task = _task(request, table)
    _check_target(request, table, task)
    taken = [f for f in table.schema if f.name not in {request.target, request.validation.group}]
    if not taken:
        raise faults.UnusableData("the table has no column beside the target", path="$.target")
    _check_finite(table, [f.name for f in taken])
    _check_rows(request, table)
    classes = sorted(table[request.target].unique().to_pylist(), key=_order)
    return Facts(
        task=task,
        rows=table.num_rows,
        columns=[(f.name, str(f.type)) for f in taken],
        classes=classes if task == "classification" else [],
    )


def _order(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)


def _check_columns(request: training.TrainingRequest, table: pa.Table) -> None:
    if request.target not in table.column_names:
        raise faults.UnknownName("column", request.target, table.column_names, "$.target")
    group = request.validation.group
    if group is not None and group not in table.column_names:
        raise faults.UnknownName("column", group, table.column_names, "$.validation.group")
    if request.validation.scheme == "group" and group is None:
        msg = "the group scheme needs the name of the group column"
        raise faults.BadRequest(msg, path="$.validation.group")


def _task(request: training.TrainingRequest, table: pa.Table) -> training.Task:
    classifier = estimators.is_classifier(estimators.named(request.model))
    task = request.task or ("classification" if classifier else "regression")
    if classifier != (task == "classification"):
        kind = "classifier" if classifier else "regressor"
        msg = f"{request.model} is a {kind}, but the task is {task}"
        raise faults.BadRequest(msg, path="$.task")
    if not classifier and not _numeric(table, request.target):
        found = table.schema.field(request.target).type
        msg = f"the target {request.target!r} is {found}, but a {task} needs numbers"
        hint = "take a classifier, or turn the column into numbers"
        raise faults.UnusableData(msg, path="$.target", hint=hint)
    return task


def _numeric(table: pa.Table, name: str) -> bool:
    import pyarrow as pa

    kind = table.schema.field(name).type
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _check_target(request: training.TrainingRequest, table: pa.Table, task: str) -> None:
    target = request.target
    missing = table[target].null_count + _not_finite(table, target)
    if missing:
        msg = f"the target {target!r} is missing, NaN or infinite in {missing} rows"
        hint = "drop those rows with quality.expect or prepare.impute"
        raise faults.UnusableData(msg, path="$.target", hint=hint)
    if task == "classification" and len(table[target].unique()) < 2:  # noqa: PLR2004 - plural
        msg = f"the target {target!r} holds one class only, so there is nothing to tell apart"
        hint = "look at the label rule, or at how the rows were chosen"
        raise faults.UnusableData(msg, path="$.target", hint=hint)


def _check_finite(table: pa.Table, names: list[str]) -> None:
    infinite = [name for name in names if _infinite(table, name)]
    if infinite:
        shown = ", ".join(infinite[:NAMED_AT_MOST])
        hint = "turn them into missing values and impute, or drop the rows"
        raise faults.UnusableData(f"infinite values in columns: {shown}", hint=hint)


def _floating(table: pa.Table, name: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(table.schema.field(name).type))


def _not_finite(table: pa.Table, name: str) -> int:
    from pyarrow import compute

    if not _floating(table, name):
        return 0
    column = table[name].drop_null()
    return len(column) - int(compute.sum(compute.is_finite(column)).as_py() or 0)


def _infinite(table: pa.Table, name: str) -> bool:
    from pyarrow import compute

    return _floating(table, name) and bool(compute.any(compute.is_inf(table[name])).as_py())


def _check_rows(request: training.TrainingRequest, table: pa.Table) -> None:
    folds = request.validation.folds
    if table.num_rows < 2 * folds:
        msg = f"{table.num_rows} rows are too few for {folds} folds"
        hint = "give more rows or fewer folds"
        raise faults.UnusableData(msg, path="$.validation.folds", hint=hint)


def split(
    request: training.TrainingRequest, facts: Facts, table: pa.Table
) -> tuple[pd.DataFrame, Any, Any]:
    """Give features as a data frame, the target and the groups (None without) as arrays."""
    frame = table.select([name for name, _ in facts.columns]).to_pandas()
    target = table[request.target].to_pandas().to_numpy()
    if facts.task == "classification" and target.dtype.kind not in "iub":
        target = target.astype(object)
    group = request.validation.group
    groups = table[group].to_pandas().to_numpy() if group else None
    return frame, target, groups
