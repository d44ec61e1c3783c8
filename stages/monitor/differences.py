"""Owns how two samples of one column are compared: a test, a size, and their histograms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from stages.quality import facts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BINS = 10
MOST_CATEGORIES = 50
"""The others are counted together."""
FEW = 5.0
"""Pearson's test wants so many expected in each cell; rarer categories are counted together."""
LARGEST_SAMPLE = 100_000
"""Numbers are compared on so many rows, drawn by the seed where there are more."""
_FLOOR = 1e-4
"""The least share of a bin: the index of an empty one would be infinite."""
REST = "(others)"

Test = Literal["ks", "chi2"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How a column differs between the reference and now; shares are of the rows with a value."""

    test: Test
    statistic: float
    p_value: float
    psi: float
    """Population stability index: 0 where the shares of all bins are equal."""
    labels: list[str]
    """Of the bins."""
    before: list[float]
    now: list[float]


def of_numbers(before: pa.ChunkedArray, now: pa.ChunkedArray, seed: int) -> Difference:
    """Compare columns of numbers by the two-sample test of Kolmogorov and Smirnov.

    The bins are the reference's deciles, so that no one value far out makes the others one bin.
    """
    import numpy as np
    from scipy import stats

    old, new = (_finite(facts.sampled(each, LARGEST_SAMPLE, seed)) for each in (before, now))
    found = stats.ks_2samp(old, new)
    inner = np.unique(np.quantile(old, np.linspace(0, 1, BINS + 1)[1:-1]))
    edges = [-np.inf, *inner, np.inf]
    # A bin holds its upper edge, so that a column of few values has one bin for each.
    counts = [
        np.bincount(np.searchsorted(inner, each, side="left"), minlength=len(inner) + 1)
        for each in (old, new)
    ]
    labels = [_between(low, high) for low, high in itertools.pairwise(edges)]
    return _difference("ks", found.statistic, found.pvalue, labels, counts)


def of_categories(before: pa.ChunkedArray, now: pa.ChunkedArray) -> Difference:
    """Compare columns of categories by Pearson's chi-square test of homogeneity."""
    import numpy as np
    from scipy import stats

    old, new = _counted(before), _counted(now)
    kept, rest = _kept(old, new)
    table = [[each.get(name, 0) for name in kept] for each in (old, new)]
    if rest:
        for row, each in zip(table, (old, new), strict=True):
            row.append(sum(each.get(name, 0) for name in rest))
    labels = [*kept, REST] if rest else kept
    counts = np.array(table)
    if counts.shape[1] < 2:  # noqa: PLR2004 - one category cannot differ
        return _difference("chi2", 0.0, 1.0, labels, counts)
    found = stats.chi2_contingency(counts, correction=False)
    return _difference("chi2", found.statistic, found.pvalue, labels, counts)


def gaps_differ(before: tuple[int, int], now: tuple[int, int]) -> float:
    """Give Fisher's exact p-value that gaps are as frequent now; pairs of (gaps, rows)."""
    from scipy import stats

    rows = [[gaps, total - gaps] for gaps, total in (before, now)]
    return float(stats.fisher_exact(rows).pvalue)


def stability(before: Sequence[float], now: Sequence[float]) -> float:
    """Give the population stability index of two lists of shares, bin by bin.

    The sum of (now - before) * ln(now / before): Kullback and Leibler's divergence J (1951), as
    scorecards use it. Under 0.1 is usually called stable, over 0.25 a large shift.
    """
    import numpy as np

    old, new = (np.maximum(each, _FLOOR) for each in (np.asarray(before), np.asarray(now)))
    return float(((new - old) * np.log(new / old)).sum())


def corrected(p_values: Sequence[float]) -> list[float]:
    """Correct for many tests by the false discovery rate (Benjamini and Hochberg, 1995)."""
    from scipy import stats

    if not p_values:
        return []
    return [float(p) for p in stats.false_discovery_control(p_values, method="bh")]


def _difference(
    test: Test, statistic: float, p_value: float, labels: list[str], counts: Any
) -> Difference:
    before, now = ((each / max(1, each.sum())).tolist() for each in counts)
    return Difference(
        test=test,
        statistic=float(statistic),
        p_value=float(p_value),
        psi=stability(before, now),
        labels=labels,
        before=before,
        now=now,
    )


def _finite(array: pa.ChunkedArray) -> np.ndarray:
    import numpy as np

    found = facts.numbers(array.drop_null())
    return found[np.isfinite(found)]


def _between(low: float, high: float) -> str:
    if low == float("-inf"):
        return f"up to {high:.4g}"
    return f"over {low:.4g}" if high == float("inf") else f"{low:.4g} to {high:.4g}"


def _counted(array: pa.ChunkedArray) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.value_counts(array.drop_null().cast(pa.large_string()))
    return {pair["values"]: pair["counts"] for pair in texts.to_pylist()}


def _kept(old: dict[str, int], new: dict[str, int]) -> tuple[list[str], list[str]]:
    """Part the categories into those frequent enough to be told, most frequent first, and others.

    New ones are told too: what the reference did not have is what a model knows nothing about.
    """
    both = {name: old.get(name, 0) + new.get(name, 0) for name in {*old, *new}}
    smaller = min(sum(old.values()), sum(new.values())) / max(1, sum(both.values()))
    ordered = sorted(both, key=lambda name: (-both[name], name))
    kept = [name for name in ordered if both[name] * smaller >= FEW][:MOST_CATEGORIES]
    return kept, ordered[len(kept) :]
