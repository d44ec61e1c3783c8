"""Owns what explains a score: confusion, per-class scores, ROC and PR curves, importances."""

from __future__ import annotations

from typing import Any

from stages import models, values
from stages.evaluate import predictions, scores

POINTS = 200
"""Of a curve at most; more can't be seen in a plot."""
REPEATS = 5


def details(found: predictions.Predictions) -> dict[str, Any]:
    """Explain a classification; there is nothing to add to a regression here."""
    if found.task != "classification":
        return {}
    return _classes(found) | _curves(found)


def _classes(found: predictions.Predictions) -> dict[str, Any]:
    from sklearn import metrics

    labels = found.classes
    parts = metrics.precision_recall_fscore_support(
        found.actual, found.predicted, labels=labels, zero_division=0
    )
    names = ("precision", "recall", "f1", "support")
    return {
        "confusion": {
            "labels": labels,
            "matrix": metrics.confusion_matrix(
                found.actual, found.predicted, labels=labels
            ).tolist(),
        },
        "per_class": {
            str(label): {n: float(part[place]) for n, part in zip(names, parts, strict=True)}
            for place, label in enumerate(labels)
        },
    }


def _curves(found: predictions.Predictions) -> dict[str, Any]:
    """Draw the curves of a two-class problem; the second class is the positive one."""
    from sklearn import metrics

    positive = found.actual == found.classes[-1]
    two = len(found.classes) == 2  # noqa: PLR2004 - binary
    if not two or found.probabilities is None or positive.all() or not positive.any():
        return {}
    score = found.probabilities[:, 1]
    fpr, tpr, _ = metrics.roc_curve(positive, score)
    precision, recall, _ = metrics.precision_recall_curve(positive, score)
    auc = float(metrics.roc_auc_score(positive, score))
    ap = float(metrics.average_precision_score(positive, score))
    return {
        "roc": {"fpr": _thin(fpr), "tpr": _thin(tpr), "auc": auc},
        "pr": {"precision": _thin(precision), "recall": _thin(recall), "ap": ap},
    }


def _thin(line: Any) -> list[float]:
    import numpy as np

    places = np.unique(np.linspace(0, len(line) - 1, min(POINTS, len(line))).astype(int))
    return [float(value) for value in line[places]]


def importances(model: models.Model, table: values.Table, seed: int) -> list[dict[str, Any]]:
    """Measure how much the default metric falls when a raw column is shuffled, greatest first.

    Source: Breiman, "Random Forests" (2001), section 10; here on any model and held-out rows.
    """
    from sklearn import inspection

    card = model.card
    names = [column.name for column in card.columns]
    metric = scores.DEFAULTS[card.task]

    def scorer(estimator: Any, frame: Any, actual: Any) -> float:
        predicted = estimator.predict(frame)
        found = scores.compute(metric, actual, predicted, None, card.classes or None)
        return scores.oriented(metric, found)

    result = inspection.permutation_importance(
        model.estimator(),
        table.pandas()[names],
        predictions.target(table, card.target, card.task),
        scoring=scorer,
        n_repeats=REPEATS,
        random_state=seed,
    )
    rows = zip(names, result.importances_mean, result.importances_std, strict=True)
    listed = [{"feature": n, "mean": float(m), "std": float(s)} for n, m, s in rows]
    return sorted(listed, key=lambda row: -row["mean"])
