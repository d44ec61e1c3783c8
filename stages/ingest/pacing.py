"""Owns when the next request may go: the rate, what a server asks for, and waits that end."""

from __future__ import annotations

import datetime as dt
import email.utils
import time
from collections.abc import Callable

import msgspec
import tenacity

from stages import kit, sources

SLICE_S = 0.1
"""A cancellation is seen within so many seconds."""
LONGEST_S = 120.0
"""A server that asks for a longer wait is not waited for here: the run's own retries are."""
_MOST_BACKOFF_S = 30.0


class Terms(msgspec.Struct, frozen=True):
    """How often and how patiently to ask."""

    per_second: float | None
    attempts: int
    backoff_s: float
    timeout_s: float


class Busy(sources.Unavailable):
    """A server asks to come back later, and may have said when."""

    def __init__(self, uri: str, status: int, after_s: float | None) -> None:
        when = f", and asks for a wait of {after_s:.0f} s" if after_s is not None else ""
        super().__init__(uri, f"the server answers {status}{when}")
        self.after_s = after_s


class Pace:
    """Keeps requests apart, and waits in slices between which a cancellation is seen."""

    def __init__(
        self,
        per_second: float | None,
        check: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._apart = 1 / per_second if per_second else 0.0
        self._check = check
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def wait_turn(self) -> None:
        """Wait until the next request may go."""
        self.pause(self._next - self._clock())
        self._next = self._clock() + self._apart

    def pause(self, seconds: float) -> None:
        """Wait so long; raise Cancelled within a slice of the cancellation."""
        until = self._clock() + seconds
        self._check()
        while (left := until - self._clock()) > 0:
            self._sleep(min(left, SLICE_S))
            self._check()


def retrying(attempts: int, backoff_s: float, pace: Pace) -> tenacity.Retrying:
    """Try again what fails for the moment: later and later, or when the server says."""
    backoff = tenacity.wait_exponential_jitter(
        multiplier=backoff_s, max=_MOST_BACKOFF_S, jitter=backoff_s
    )

    def wait(state: tenacity.RetryCallState) -> float:
        asked = getattr(_error(state), "after_s", None)
        return float(backoff(state)) if asked is None else float(asked)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(kit.Transient),
        stop=lambda state: state.attempt_number >= attempts or state.upcoming_sleep > LONGEST_S,
        wait=wait,
        sleep=pace.pause,
        reraise=True,
    )


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def wait_asked(header: str | None, now: dt.datetime | None = None) -> float | None:
    """Read the header Retry-After, seconds or a date; None where it says nothing of use."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        when = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if when.tzinfo is None:
        return None
    return max((when - (now or dt.datetime.now(dt.UTC))).total_seconds(), 0.0)
