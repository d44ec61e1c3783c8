"""Owns what a step of a canary shows: go on, wait, or back. Nothing here awaits."""

from __future__ import annotations

import math

from agent.serving import trials
from protocol import serving
from stages.evaluate import scores

NOISE_S = 0.005
"""A difference of latencies that is none: so much a busy machine makes by itself."""
_ROUNDING = 1e-9


def why_back(
    terms: serving.Canary, elapsed_s: float, before: trials.Tally, new: trials.Tally
) -> str | None:
    """Say why requests have to move back; None where nothing speaks for it yet."""
    if new.lost:
        return new.lost
    if new.errors > terms.max_error_rate * max(new.asked, terms.min_requests):
        most = f"at most {terms.max_error_rate:.2%} may be"
        return f"{new.errors} of {new.asked} requests failed, {most}; the last: {new.last_error}"
    if new.different > terms.max_different * max(new.compared, terms.min_requests):
        most = f"at most {terms.max_different:.2%} may be"
        return f"{new.different} of {new.compared} answers are different, {most}"
    if min(before.answered, new.answered) >= terms.min_requests:
        old_s, new_s = before.p95_s(), new.p95_s()
        if new_s > terms.max_latency_ratio * old_s + NOISE_S:
            most = f"more than {terms.max_latency_ratio:g} times the"
            beside = f"{old_s * 1e3:.1f} ms of the version before"
            return f"its 95th percentile is {new_s * 1e3:.1f} ms, {most} {beside}"
    if elapsed_s >= max(terms.wait_s, terms.hold_s) and new.asked < terms.min_requests:
        return f"only {new.asked} of {terms.min_requests} requests came within {elapsed_s:.0f} s"
    return None


def is_enough(terms: serving.Canary, elapsed_s: float, new: trials.Tally) -> bool:
    """Tell whether a step that nothing speaks against is over."""
    return elapsed_s >= terms.hold_s and new.asked >= terms.min_requests


def measured(before: trials.Tally, new: trials.Tally) -> dict[str, float]:
    """Give the figures of a step; a percentile of no answer is left out."""
    times = {"p95_ms": new.p95_s() * 1e3, "before_p95_ms": before.p95_s() * 1e3}
    counts = {"requests": new.asked, "errors": new.errors, "before_requests": before.asked}
    counts |= {"different": new.different} if new.compared else {}
    found = {name: float(value) for name, value in counts.items()}
    return found | {name: round(at, 3) for name, at in times.items() if math.isfinite(at)}


def is_worse(metric: str, before: float, new: float, max_worse: float) -> bool:
    """Tell whether a metric is worse by more than a share of what it was; NaN is."""
    old, candidate = (scores.oriented(metric, value) for value in (before, new))
    return not candidate >= old - max_worse * abs(old) - _ROUNDING
