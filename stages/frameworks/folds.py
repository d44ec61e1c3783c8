"""Owns how rows are split for validation: the scheme, chosen by the task unless it is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stages.frameworks import base, faults


def scheme(lesson: base.Lesson, facts: base.Facts) -> str:
    """Name the scheme: `group` where groups are given, `time` for a forecast, else by task."""
    wanted = lesson.scheme
    if wanted == "stratified" and facts.task != "classification":
        msg = "only the classes of a classification can be stratified"
        raise faults.BadRequest(msg, path="$.validation.scheme")
    if wanted != "auto":
        return wanted
    if lesson.group is not None:
        return "group"
    return {"classification": "stratified", "forecast": "time"}.get(facts.task, "random")


def splits(
    lesson: base.Lesson, facts: base.Facts, target: Any, groups: Any
) -> Iterator[tuple[Any, Any]]:
    """Give (train, test) row positions of each fold; the same for the same lesson and data."""
    splitter = _splitter(lesson, scheme(lesson, facts), target, groups)
    return iter(splitter.split(target.reshape(-1, 1), target, groups))


def _splitter(lesson: base.Lesson, name: str, target: Any, groups: Any) -> Any:
    import numpy as np
    from sklearn import model_selection as ms

    count, seed = lesson.folds, lesson.seed
    if name == "time":
        return ms.TimeSeriesSplit(count)
    if name == "group":
        _check_groups(groups, count)
        return ms.GroupKFold(count)
    rarest = int(np.unique(target.astype(str), return_counts=True)[1].min())
    if name == "stratified" and rarest >= count:
        return ms.StratifiedKFold(count, shuffle=True, random_state=seed)
    return ms.KFold(count, shuffle=True, random_state=seed)


def _check_groups(groups: Any, count: int) -> None:
    found = len(set(groups.tolist()))
    if found < count:
        msg = f"{found} groups cannot be spread over {count} folds"
        raise faults.UnusableData(msg, path="$.validation.folds", hint="ask for fewer folds")
