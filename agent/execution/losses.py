"""Owns how it is said that an attempt's worker is lost."""

from __future__ import annotations

from agent.execution import base, hands
from protocol import problems


def not_found() -> problems.Problem:
    """Say that nothing is left to go on with."""
    message = "the worker that was at the attempt is gone, and its result with it"
    return problems.Problem("preempted", message, retryable=True)


def out_of_memory(error: BaseException) -> base.Failed:
    """Say that a worker was ended for lack of memory."""
    message = f"Ray ended the worker for lack of memory: {_first_line(error)}"
    return base.Failed(problems.Problem("out_of_memory", message, retryable=True))


def lost(hand: hands.Hand, error: BaseException) -> base.Failed:
    """Say that a worker died under an attempt; the cloud may have taken its node back."""
    taken = bool(getattr(error, "preempted", False))
    reason = _reason(hand, error)
    message = f"the worker ({hand.where}) died while it ran the stage: {reason}"
    code: problems.Code = "preempted" if taken else "worker_lost"
    return base.Failed(problems.Problem(code, message, retryable=True))


def _reason(hand: hands.Hand, error: BaseException) -> str:
    """Give the line that tells: for a worker that could not start, what its code raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if hand.identity else lines[-1]) if lines else ""


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
