"""Owns what a model says about a table: actual values, predictions and probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages import kit, models, values
from stages.evaluate import scores

if TYPE_CHECKING:
    import numpy as np

FEWEST_ROWS = 2


class Predictions:
    """Aligned arrays: actual, predicted and, for a classifier, probabilities (rows, classes)."""

    def __init__(
        self, task: str, actual: Any, predicted: Any, probabilities: Any, classes: Any
    ) -> None:
        self.task = task
        self.actual = actual
        self.predicted = predicted
        self.probabilities = probabilities
        self.classes = classes

    def measure(self, rows: Any = None) -> dict[str, float]:
        """Compute every metric of the task on all rows, or on these row positions."""
        everything = rows is None
        actual = self.actual if everything else self.actual[rows]
        predicted = self.predicted if everything else self.predicted[rows]
        given = self.probabilities
        probabilities = given if everything or given is None else given[rows]
        return {
            name: scores.compute(name, actual, predicted, probabilities, self.classes)
            for name in scores.names(self.task)
        }


def predict(model: models.Model, table: values.Table) -> Predictions:
    """Let a model predict a table that holds its target column."""
    check_columns(model.card, table)
    return said(model.card, model.estimator(), table)


def said(card: models.ModelCard, estimator: Any, table: values.Table) -> Predictions:
    """Let a model that is in memory predict a table that holds its target column."""
    check_columns(card, table)
    actual = target(table, card.target, card.task)
    frame = table.pandas()[[column.name for column in card.columns]]
    try:
        predicted = estimator.predict(frame)
    except ValueError as error:
        msg = f"the model cannot predict this table: {error}"
        raise kit.DataFault(msg) from error
    classes = card.classes or None
    probabilities = _probabilities(estimator, frame, classes)
    return Predictions(card.task, actual, predicted, probabilities, classes)


def check_columns(card: models.ModelCard, table: values.Table) -> None:
    """Raise DataFault if the table lacks a column that the model takes, or its target."""
    wanted = [column.name for column in card.columns] + [card.target]
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        msg = f"the table has no column {', '.join(map(repr, missing[:5]))}"
        hint = "evaluate on rows prepared as the training rows were"
        raise kit.DataFault(msg, hint=hint)
    if (table.rows() or 0) < FEWEST_ROWS:
        msg = f"{table.rows()} rows are too few to evaluate on"
        raise kit.DataFault(msg)


def target(table: values.Table, name: str, task: str) -> np.ndarray[Any, Any]:
    """Give the target column as an array; raise DataFault where it is missing or not finite."""
    import numpy as np

    column = table.arrow[name]
    if column.null_count:
        msg = f"the target {name!r} is missing in {column.null_count} rows"
        raise kit.DataFault(msg, hint="drop those rows with quality.expect or prepare.impute")
    found: np.ndarray[Any, Any] = column.to_pandas().to_numpy()
    if task == "classification":
        return found if found.dtype.kind in "iub" else found.astype(object)
    found = found.astype(float)
    if not np.isfinite(found).all():
        msg = f"the target {name!r} holds NaN or infinite values"
        raise kit.DataFault(msg)
    return found


def _probabilities(estimator: Any, frame: Any, classes: list[Any] | None) -> Any:
    if classes is None or not hasattr(estimator, "predict_proba"):
        return None
    order = [estimator.classes_.tolist().index(label) for label in classes]
    return estimator.predict_proba(frame)[:, order]
