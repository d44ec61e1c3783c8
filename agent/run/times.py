"""Owns arithmetic with times, and the names of timers."""

from __future__ import annotations

import datetime as dt

from agent.run import effects

_FOREVER_S = 10 * 365 * 86400.0
"""Longer waits are cut, since a date has an end."""

DEADLINE = "deadline"
DEADLINE_FORCE = "deadline-force"
CANCEL = "cancel"


def after(start: dt.datetime, seconds: float) -> dt.datetime:
    """Add seconds to a time, at most ten years."""
    try:
        return start + dt.timedelta(seconds=min(seconds, _FOREVER_S))
    except OverflowError:
        return dt.datetime.max.replace(tzinfo=dt.UTC)


def timer(kind: str, key: effects.WorkKey) -> str:
    """Name a timer of one attempt: `timeout`, `force` or `retry`."""
    element = "" if key.element is None else str(key.element)
    return f"{kind}/{key.stage}/{element}/{key.attempt}"


def approval(stage: str) -> str:
    """Name the timer of a gate."""
    return f"approval/{stage}"


def parse(name: str, run_id: str) -> tuple[str, effects.WorkKey | None]:
    """Take a timer's name apart; the key is None where it is not about an attempt."""
    kind, *rest = name.split("/")
    if len(rest) == 1:
        return kind, effects.WorkKey(run_id, rest[0], None, 0)
    if len(rest) != 3 or not rest[2].isdigit():  # noqa: PLR2004 - stage, element, attempt
        return kind, None
    stage, element, attempt = rest
    number = int(element) if element.isdigit() else None
    return kind, effects.WorkKey(run_id, stage, number, int(attempt))
