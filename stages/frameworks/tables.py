"""Owns the training data as frameworks see it: checked, split into X and y."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.frameworks import base, faults

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

NAMED_AT_MOST = 5


def check(
    framework: base.Framework, lesson: base.Lesson, table: pa.Table, only: str | None = None
) -> base.Facts:
    """Check that the table can be learned from; raise a kit.StageFault that says why not.

    The model takes every column beside target and group, or the one that is named.
    """
    _check_columns(lesson, table)
    task = _task(framework.natural_task(lesson.model), lesson, table)
    _check_target(lesson, table, task)
    others = [f for f in table.schema if f.name not in {lesson.target, lesson.group}]
    taken = [f for f in others if only in {None, f.name}]
    if not taken:
        wanted = "column beside the target" if only is None else f"column {only!r} to learn from"
        raise faults.UnusableData(f"the table has no {wanted}", path="$.target")
    _check_finite(table, [f.name for f in taken])
    _check_rows(lesson, table)
    classes = sorted(table[lesson.target].unique().to_pylist(), key=_order)
    return base.Facts(
        task=task,
        rows=table.num_rows,
        columns=[(f.name, str(f.type)) for f in taken],
        classes=classes if task == "classification" else [],
    )


def _order(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else str(value)


def _check_columns(lesson: base.Lesson, table: pa.Table) -> None:
    if lesson.target not in table.column_names:
        raise faults.UnknownName("column", lesson.target, table.column_names, "$.target")
    group = lesson.group
    if group is not None and group not in table.column_names:
        raise faults.UnknownName("column", group, table.column_names, "$.validation.group")
    if lesson.scheme == "group" and group is None:
        msg = "the group scheme needs the name of the group column"
        raise faults.BadRequest(msg, path="$.validation.group")


def _task(natural: base.Task, lesson: base.Lesson, table: pa.Table) -> base.Task:
    classifier = natural == "classification"
    task = lesson.task or natural
    if classifier != (task == "classification"):
        kind = "classifier" if classifier else "regressor"
        msg = f"{lesson.model} is a {kind}, but the task is {task}"
        raise faults.BadRequest(msg, path="$.task")
    if not classifier and not _numeric(table, lesson.target):
        found = table.schema.field(lesson.target).type
        msg = f"the target {lesson.target!r} is {found}, but a {task} needs numbers"
        hint = "take a classifier, or turn the column into numbers"
        raise faults.UnusableData(msg, path="$.target", hint=hint)
    return task


def _numeric(table: pa.Table, name: str) -> bool:
    import pyarrow as pa

    kind = table.schema.field(name).type
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _check_target(lesson: base.Lesson, table: pa.Table, task: str) -> None:
    target = lesson.target
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


def _check_rows(lesson: base.Lesson, table: pa.Table) -> None:
    folds = lesson.folds
    if table.num_rows < 2 * folds:
        msg = f"{table.num_rows} rows are too few for {folds} folds"
        hint = "give more rows or fewer folds"
        raise faults.UnusableData(msg, path="$.validation.folds", hint=hint)


def split(lesson: base.Lesson, facts: base.Facts, table: pa.Table) -> tuple[pd.DataFrame, Any, Any]:
    """Give features as a data frame, the target and the groups (None without) as arrays."""
    frame = table.select([name for name, _ in facts.columns]).to_pandas()
    return frame, target(lesson, facts, table), groups(lesson, table)


def target(lesson: base.Lesson, facts: base.Facts, table: pa.Table) -> Any:
    """Give the target as an array."""
    found = table[lesson.target].to_pandas().to_numpy()
    if facts.task == "classification" and found.dtype.kind not in "iub":
        found = found.astype(object)
    return found


def groups(lesson: base.Lesson, table: pa.Table) -> Any:
    """Give the groups as an array; None without."""
    return table[lesson.group].to_pandas().to_numpy() if lesson.group else None
