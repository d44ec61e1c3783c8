"""Owns a trial: a new version answers some of the requests, the version before all the others.

Nobody who asks pays for it: what the new version does not answer, the version before is asked. One
that has no share is a shadow: it is asked what the other has answered, and nobody hears of it.
"""

from __future__ import annotations

import asyncio
import collections
import math
import time

import msgspec

from agent import tasks
from agent.bus import endpoints
from agent.serving import replica, routes
from protocol import problems

MOST_TIMES = 20_000
"""How many of the last answers a percentile is of."""
MOST_COPIES = 32
"""What a shadow is asked at a time; what comes meanwhile it is not asked."""


class Tally:
    """What one version was asked in a step, and how it did."""

    def __init__(self) -> None:
        self.answered = 0
        self.errors = 0
        self.compared = self.different = 0
        """Answers of a shadow, and those that the version before has given otherwise."""
        self.last_error = ""
        self.lost = ""
        """Why the version gave no answer at all; empty while it always has."""
        self._times: collections.deque[float] = collections.deque(maxlen=MOST_TIMES)

    @property
    def asked(self) -> int:
        """Count what speaks for or against the version."""
        return self.answered + self.errors

    def took(self, seconds: float) -> None:
        """Count an answer."""
        self.answered += 1
        self._times.append(seconds)

    def failed(self, why: str) -> None:
        """Count a request that the version did not answer, and should have."""
        self.errors += 1
        self.last_error = why

    def p95_s(self) -> float:
        """Give the 95th percentile of the answers' times; NaN of none."""
        if not self._times:
            return math.nan
        return sorted(self._times)[math.ceil(0.95 * len(self._times)) - 1]


class Trial:
    """One step: `percent` of the requests are the new version's."""

    def __init__(
        self, before: routes.Route, candidate: routes.Route, percent: float, answer_s: float
    ) -> None:
        self.before, self.candidate = Tally(), Tally()
        self._old = before
        self._new = candidate
        self._percent = percent
        self._answer_s = answer_s
        self._copies: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop asking what nobody waits for."""
        await tasks.end(*self._copies)

    async def ask(self, question: replica.Question, point: float) -> tuple[str, replica.Answer]:
        """Ask the version that a point between 0 and 1 falls to; give its key and its answer."""
        if point * 100 >= self._percent:
            return await self._ask_old(question)
        told = await self._ask_new(question)
        if isinstance(told, tuple):
            return self._new.key, told
        answer = await self._old.ask(question)
        if answer[0] == replica.OK:  # else nobody could have answered it
            self.candidate.failed(told)
        return self._old.key, answer

    async def _ask_old(self, question: replica.Question) -> tuple[str, replica.Answer]:
        began = time.perf_counter()
        answer = await self._old.ask(question)
        if answer[0] == replica.OK:
            self.before.took(time.perf_counter() - began)
            if not self._percent and len(self._copies) < MOST_COPIES:
                copy = asyncio.create_task(self._compare(question, answer[1]), name="shadow")
                self._copies.add(copy)
                copy.add_done_callback(self._copies.discard)
        return self._old.key, answer

    async def _compare(self, question: replica.Question, said: bytes) -> None:
        """Ask the shadow what has been answered."""
        told = await self._ask_new(question)
        if isinstance(told, str):
            self.candidate.failed(told)
            return
        self.candidate.compared += 1
        self.candidate.different += told[1] != said

    async def _ask_new(self, question: replica.Question) -> replica.Answer | str:
        """Give the new version's answer, or why there is none that can be given."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._answer_s):
                number, body = await self._new.ask(question)
        except TimeoutError:
            return f"no answer within {self._answer_s:g} s"
        except routes.NoAnswer as error:
            self.candidate.lost = str(error)
            return str(error)
        except endpoints.Refusal as error:
            return str(error)
        if number != replica.OK:
            return _message(body, question[1])
        self.candidate.took(time.perf_counter() - began)
        return number, body


def _message(body: bytes, content_type: str | None) -> str:
    """Give the message of a problem as a replica tells it."""
    packed = "msgpack" in (content_type or "")
    decode = msgspec.msgpack.decode if packed else msgspec.json.decode
    return decode(body, type=problems.Problem).message
