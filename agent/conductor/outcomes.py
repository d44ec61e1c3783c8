"""Owns how an attempt's outcome comes before the run core, and that the journal can hold it."""

from __future__ import annotations

import msgspec

from agent.execution import base
from agent.run import effects, stimuli
from protocol import problems

_SHORT = 1000
"""Characters of a message that is cut."""


def stimulus(key: effects.WorkKey, told: base.Outcome, max_bytes: int) -> stimuli.Stimulus:
    """Say to the run core how an attempt ended."""
    outcome = storable(told, max_bytes)
    match outcome:
        case base.Succeeded():
            return stimuli.WorkSucceeded(
                key,
                outputs=outcome.outputs,
                metrics=outcome.metrics,
                duration_s=outcome.duration_s,
                usage=outcome.usage,
                cached=outcome.cached,
                cache_key=outcome.cache_key,
                code_version=outcome.code_version,
            )
        case base.Failed():
            return stimuli.WorkFailed(key, outcome.problem, outcome.log)
        case base.Halted():
            return stimuli.WorkStopped(key, outcome.how, outcome.where)


def storable(told: base.Outcome, max_bytes: int) -> base.Outcome:
    """Give the outcome if the journal can hold it, or else a failure that says why not."""
    try:
        size = len(msgspec.json.encode(told))
    except UnicodeEncodeError as error:
        message = f"what the attempt told cannot be written as UTF-8: {error.reason}"
        return base.Failed(problems.Problem(code="internal", message=message))
    if size <= max_bytes:
        return told
    if isinstance(told, base.Failed):
        return base.Failed(_shortened(told.problem, max_bytes))
    return base.Failed(_too_large(size, max_bytes))


def _shortened(problem: problems.Problem, max_bytes: int) -> problems.Problem:
    """Leave out what is long by nature, and if that is not enough, all that may be."""
    short = msgspec.structs.replace(problem, traceback=None, problems=[])
    if len(msgspec.json.encode(base.Failed(short))) <= max_bytes:
        return short
    message = problem.message[:_SHORT]
    return problems.Problem(problem.code, message, retryable=problem.retryable)


def _too_large(size: int, max_bytes: int) -> problems.Problem:
    return problems.Problem(
        code="payload_too_large",
        message=f"the description of the outputs takes {size} bytes of the journal, "
        f"and {max_bytes} are allowed",
        hint="make tables of fewer columns, or raise the server's max_payload",
    )
