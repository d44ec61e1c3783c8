"""Owns errors as they are sent: a closed list of codes, a path into the request, a way to mend."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol import wire

MAX_PROBLEMS = 100
"""That are told at once: nobody reads more, and they must fit a message."""

Code = Literal[
    "invalid_json",
    "invalid_field",
    "unknown_field",
    "unknown_stage",
    "unknown_template",
    "unknown_input",
    "duplicate_id",
    "cycle",
    "type_mismatch",
    "payload_too_large",
    "fan_out_too_large",
    "not_allowed",
    "not_authorized",
    "not_found",
    "conflict",
    "overloaded",
    "unavailable",
    "timeout",
    "deadline_exceeded",
    "out_of_memory",
    "preempted",
    "worker_lost",
    "data_fault",
    "code_fault",
    "transient",
    "artifact_corrupt",
    "cancelled",
    "denied",
    "internal",
]
"""The closed list. Stage failures use the same codes as refused requests."""


class Problem(wire.Fact, frozen=True):
    """What went wrong, where, and how to mend it."""

    code: Code
    message: str
    path: str | None = None
    """Into the request, as `$.pipeline.stages[3].with.n_components`."""
    hint: str | None = None
    retryable: bool = False
    run_id: str | None = None
    traceback: str | None = None
    """Shortened, cause first; only for failures of a stage's own code."""
    problems: list[Problem] = []
    """All of them, where there are several; the outer one is the first."""


def gather(found: list[Problem]) -> Problem:
    """Make one problem of several: the first, carrying them all, or a hundred of very many."""
    first, *others = found
    if not others:
        return first
    return msgspec.structs.replace(first, problems=found[:MAX_PROBLEMS])
