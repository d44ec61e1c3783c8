"""Owns confidence intervals by resampling rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

RESAMPLES = 200


def bootstrap(
    measure: Callable[[Any], dict[str, float]],
    rows: int,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> dict[str, list[float]]:
    """Give the percentile interval of each metric over resampled row positions.

    `measure` takes an array of row positions. Rows are drawn with replacement, so they are taken
    as independent; for a time series this makes intervals too narrow where errors are correlated.
    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    A metric that is undefined in some resamples keeps the others; without any it is left out.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    drawn = [measure(generator.integers(0, rows, rows)) for _ in range(resamples)]
    tails = [50.0 * (1.0 - level), 100.0 - 50.0 * (1.0 - level)]
    found: dict[str, list[float]] = {}
    for name in drawn[0]:
        column = np.array([draw[name] for draw in drawn])
        column = column[np.isfinite(column)]
        if len(column):
            found[name] = [float(edge) for edge in np.percentile(column, tails)]
    return found
