"""Owns the metrics: what each is called, which way is better, and how it is computed."""

from __future__ import annotations

from typing import Any

LOWER_IS_BETTER = frozenset({"rmse", "mae", "smape", "mape", "mase", "log_loss", "brier"})
CLASSIFICATION = (
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "f1",
    "precision",
    "recall",
    "roc_auc",
    "average_precision",
    "log_loss",
    "brier",
)
REGRESSION = ("rmse", "mae", "r2", "smape", "mape")
NEEDS_PROBABILITIES = frozenset({"roc_auc", "average_precision", "log_loss", "brier"})
DEFAULTS = {"classification": "f1_macro", "regression": "rmse", "forecast": "mae"}


def names(task: str) -> tuple[str, ...]:
    """Name the metrics of a task."""
    return CLASSIFICATION if task == "classification" else REGRESSION


def oriented(metric: str, value: float) -> float:
    """Turn a metric so that higher is better."""
    return -value if metric in LOWER_IS_BETTER else value


def compute(
    metric: str,
    actual: Any,
    predicted: Any,
    probabilities: Any = None,
    classes: list[Any] | None = None,
) -> float:
    """Compute one metric; probabilities are of shape (rows, classes), in the order of `classes`.

    For two classes, `f1`, `precision` and `recall` are of the second class; for more they are
    macro averages. A metric that needs probabilities is NaN without them.
    """
    if metric in REGRESSION:
        return _regression(metric, actual, predicted)
    if metric in NEEDS_PROBABILITIES:
        if probabilities is None or classes is None:
            return float("nan")
        return _probabilistic(metric, actual, probabilities, classes)
    return _labels(metric, actual, predicted, classes)


def _regression(metric: str, actual: Any, predicted: Any) -> float:
    import numpy as np
    from sklearn import metrics

    actual = np.asarray(actual, dtype=float)
    predicted = np.asarray(predicted, dtype=float)
    if metric == "rmse":
        return float(np.sqrt(np.mean((actual - predicted) ** 2)))
    if metric == "mae":
        return float(np.mean(np.abs(actual - predicted)))
    if metric == "smape":
        return smape(actual, predicted)
    if metric == "mape":
        return float(metrics.mean_absolute_percentage_error(actual, predicted))
    return float(metrics.r2_score(actual, predicted)) if len(actual) > 1 else float("nan")


def smape(actual: Any, predicted: Any) -> float:
    """Compute the symmetric mean absolute percentage error, in percent from 0 to 200.

    Source: Makridakis, "Accuracy measures: theoretical and practical concerns" (1993); a point
    where both are zero counts as no error.
    """
    import numpy as np

    scale = np.abs(actual) + np.abs(predicted)
    errors = np.divide(
        2.0 * np.abs(actual - predicted), scale, out=np.zeros_like(scale), where=scale > 0
    )
    return float(100.0 * errors.mean())


def mase(actual: Any, predicted: Any, history: Any, season: int) -> float:
    """Scale the mean absolute error by that of the seasonal naive forecast on the history.

    Source: Hyndman and Koehler, "Another look at measures of forecast accuracy" (2006). NaN where
    the history is shorter than two seasons or does not vary.
    """
    import numpy as np

    history = np.asarray(history, dtype=float)
    if len(history) <= season:
        return float("nan")
    scale = np.mean(np.abs(history[season:] - history[:-season]))
    error = np.mean(np.abs(np.asarray(actual, float) - np.asarray(predicted, float)))
    return float(error / scale) if scale > 0 else float("nan")


def _labels(metric: str, actual: Any, predicted: Any, classes: list[Any] | None) -> float:
    from sklearn import metrics

    if metric == "accuracy":
        return float(metrics.accuracy_score(actual, predicted))
    labels = classes or sorted({*actual, *predicted}, key=str)
    if metric == "balanced_accuracy":
        return _recall_of_present(actual, predicted, labels)
    function = {
        "f1_macro": metrics.f1_score,
        "f1": metrics.f1_score,
        "precision": metrics.precision_score,
        "recall": metrics.recall_score,
    }[metric]
    two = len(labels) == 2 and metric != "f1_macro"  # noqa: PLR2004 - binary
    average = {"average": "binary", "pos_label": labels[-1]} if two else {"average": "macro"}
    labelled = {} if two else {"labels": _present(actual, predicted, labels)}
    return float(function(actual, predicted, zero_division=0, **average, **labelled))


def _present(actual: Any, predicted: Any, labels: list[Any]) -> list[Any]:
    """Leave out classes that neither occur nor are predicted: they have no F1."""
    seen = {*_plain(actual), *_plain(predicted)}
    return [label for label in labels if label in seen]


def _plain(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _recall_of_present(actual: Any, predicted: Any, labels: list[Any]) -> float:
    from sklearn import metrics

    present = [label for label in labels if label in set(_plain(actual))]
    return float(
        metrics.recall_score(actual, predicted, labels=present, average="macro", zero_division=0)
    )


def _probabilistic(metric: str, actual: Any, probabilities: Any, classes: list[Any]) -> float:
    import numpy as np
    from sklearn import metrics

    codes = np.array([classes.index(value) for value in _plain(actual)])
    if metric == "log_loss":
        return float(metrics.log_loss(codes, probabilities, labels=list(range(len(classes)))))
    hits = np.eye(len(classes))[codes]
    if metric == "brier":
        return float(np.mean(np.sum((hits - probabilities) ** 2, axis=1)))
    if len(classes) == 2:  # noqa: PLR2004 - binary
        hits, probabilities = hits[:, 1:], probabilities[:, 1:]
    one_sided = (hits.min(axis=0) == hits.max(axis=0)).any()
    function = metrics.roc_auc_score if metric == "roc_auc" else metrics.average_precision_score
    return float("nan") if one_sided else float(function(hits, probabilities, average="macro"))
