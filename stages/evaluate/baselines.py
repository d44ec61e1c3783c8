"""Owns the naive predictions that a model has to beat."""

from __future__ import annotations

from typing import Any

from stages.evaluate import predictions


def naive(
    found: predictions.Predictions, history: Any = None, season: int | None = None
) -> tuple[str, Any]:
    """Give a baseline's name and predictions for the same rows.

    Classification: the most frequent class. Regression: the mean. Forecast with a season: the
    value one season earlier. They learn from `history` (the training target) where it is given;
    without it from the evaluated rows themselves, which flatters the baseline, never the model.
    """
    import numpy as np

    known = found.actual if history is None else history
    if found.task == "classification":
        labels, counts = np.unique(np.asarray(known, dtype=object).astype(str), return_counts=True)
        spelled = {str(label): label for label in found.classes}
        majority = spelled.get(labels[counts.argmax()], found.classes[0])
        return "majority class", np.array([majority] * len(found.actual), dtype=found.actual.dtype)
    if found.task == "forecast":
        return _seasonal(found.actual, history, season or 1)
    return "mean", np.full(len(found.actual), float(np.mean(known)))


def _seasonal(actual: Any, history: Any, season: int) -> tuple[str, Any]:
    """Repeat what was seen one season earlier; the start comes from the history or is carried."""
    import numpy as np

    before = np.asarray([] if history is None else history, dtype=float)[-season:]
    if len(before) < season:
        lead = before[0] if len(before) else actual[0]
        before = np.concatenate([np.full(season - len(before), lead), before])
    shifted = np.concatenate([before, actual])[: len(actual)]
    name = "last value" if season == 1 else f"seasonal naive, season {season}"
    return name, shifted


def measure(found: predictions.Predictions, values: Any) -> dict[str, float]:
    """Score baseline predictions with the metrics that need no probabilities."""
    import math

    plain = predictions.Predictions(found.task, found.actual, values, None, found.classes)
    return {name: value for name, value in plain.measure().items() if math.isfinite(value)}
