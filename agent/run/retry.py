"""Owns whether and when a failed attempt is tried again."""

from __future__ import annotations

import hashlib

import msgspec

from agent.run import effects, state, units
from protocol import pipelines, problems

RETRIED = frozenset(
    {
        "transient",
        "worker_lost",
        "unavailable",
        "timeout",
        "internal",
        "overloaded",
        "artifact_corrupt",
    }
)
FINAL = frozenset(
    {"data_fault", "code_fault", "not_allowed", "invalid_field", "denied", "cancelled"}
)
"""Trying again changes nothing, whatever the failure says of itself."""
MAX_PREEMPTIONS = 10
DEFAULT_MEMORY = 1 << 30
"""What an attempt without a limit is taken to have had when it ran out."""


class Again(msgspec.Struct, frozen=True):
    """Try again after so many seconds, with so much memory."""

    wait_s: float
    memory_bytes: int | None


def consider(run: state.RunState, unit: units.Unit, problem: problems.Problem) -> Again | None:
    """Decide about a failed attempt; None means that it was the last."""
    spec = run.spec(unit)
    key = run.key(unit)
    if problem.code == "preempted" and problem.code not in spec.retry.codes:
        if unit.preempted >= MAX_PREEMPTIONS:
            return None
        return Again(wait(spec.retry, key, unit.preempted + 1), unit.memory)
    limit = _limit(spec.retry, problem)
    if unit.failures + 1 >= limit:
        return None
    memory = unit.memory
    if problem.code == "out_of_memory":
        raised = more_memory(unit.memory, spec.resources)
        if raised is None and problem.code not in spec.retry.codes:
            return None
        memory = raised or memory
    return Again(wait(spec.retry, key, unit.failures + 1), memory)


def _limit(policy: pipelines.Retry, problem: problems.Problem) -> int:
    """Say how many attempts a failure of this kind is worth."""
    if problem.code in policy.codes:
        return policy.codes[problem.code]
    if problem.code in FINAL:
        return 1
    known = problem.code in RETRIED or problem.code == "out_of_memory"
    return policy.max_attempts if known or problem.retryable else 1


def more_memory(current: int | None, resources: pipelines.Resources) -> int | None:
    """Double the memory as far as the stage allows; None where there is no more."""
    most = resources.max_memory_bytes
    now = current or resources.memory_bytes or DEFAULT_MEMORY
    return None if most is None or now >= most else min(2 * now, most)


def wait(policy: pipelines.Retry, key: effects.WorkKey, nth: int) -> float:
    """Give the seconds before the next attempt; the jitter is a hash, so replays agree."""
    seconds = policy.backoff_s
    for _ in range(nth - 1):
        seconds = min(seconds * policy.factor, policy.max_backoff_s)
    seconds = min(seconds, policy.max_backoff_s)
    name = f"{key.run_id}/{key.stage}/{key.element}/{key.attempt}".encode()
    share = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) / 2**64
    return seconds * (1 + policy.jitter * (2 * share - 1))
