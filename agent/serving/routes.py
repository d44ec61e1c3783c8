"""Owns the way of requests to the versions of a model: shares, and batches that nobody waits for.

A request that finds its version idle goes at once; those that come while it is busy go together.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import structlog

from agent.bus import endpoints
from agent.serving import replica
from protocol import problems

log = structlog.get_logger(__name__)

Send = Callable[[list[replica.Question]], Awaitable[Sequence[replica.Answer]]]
_Waiting = tuple[replica.Question, asyncio.Future[replica.Answer]]

MOST_TOGETHER = 64
MOST_BYTES_TOGETHER = 1 << 20
AT_WORK_EACH = 2
"""Batches that a replica has at a time: one that it answers, one that waits there."""
MOST_WAITING = 2_000


class Overloaded(endpoints.Refusal):
    """More requests wait than can be answered soon."""

    def __init__(self, waiting: int) -> None:
        message = f"{waiting} requests wait already"
        super().__init__(problems.Problem("overloaded", message, retryable=True))


class NoAnswer(endpoints.Refusal):
    """The version did not answer; it is started again."""

    def __init__(self, reason: str) -> None:
        message = f"the model's replica gave no answer: {reason[:200]}"
        super().__init__(problems.Problem("unavailable", message, retryable=True))


class NotDeployed(endpoints.Refusal):
    """No version of the model serves here."""

    def __init__(self, name: str) -> None:
        hint = "mlpm endpoints lists what is deployed"
        message = f"no model {name[:64]!r} is deployed"
        super().__init__(problems.Problem("not_found", message, hint=hint))


class Route:
    """The way to one version."""

    def __init__(self, key: str, send: Send, replicas: int) -> None:
        self.key = key
        self._send = send
        self._most = replicas * AT_WORK_EACH
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._at_work: set[asyncio.Task[None]] = set()

    async def ask(self, question: replica.Question) -> replica.Answer:
        """Ask the version; raise a Refusal where it does not answer."""
        if len(self._waiting) >= MOST_WAITING:
            raise Overloaded(len(self._waiting))
        answer: asyncio.Future[replica.Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        self._pump()
        return await answer

    async def wait_idle(self) -> None:
        """Wait until all that was asked is answered."""
        while self._at_work:
            await asyncio.wait(self._at_work)

    def _pump(self) -> None:
        while self._waiting and len(self._at_work) < self._most:
            task = asyncio.create_task(self._carry(self._next()), name="predict")
            self._at_work.add(task)
            task.add_done_callback(self._ended)

    def _next(self) -> list[_Waiting]:
        """Take what goes together."""
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < MOST_TOGETHER and size < MOST_BYTES_TOGETHER:
            batch.append(self._waiting.popleft())
            size += len(batch[-1][0][0])
        return batch

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._at_work.discard(task)
        self._pump()

    async def _carry(self, batch: list[_Waiting]) -> None:
        try:
            told = await self._send([question for question, _ in batch])
            for (_, answer), one in zip(batch, told, strict=True):
                if not answer.done():  # whoever asked may have gone
                    answer.set_result(one)
        except Exception as error:  # noqa: BLE001 - Ray has many ways to say that a replica is gone
            log.warning("replica.gave_no_answer", reason=str(error)[:500])
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(NoAnswer(type(error).__name__))


class Trial(Protocol):
    """Decides who answers while a new version is tried out."""

    async def ask(self, question: replica.Question, point: float) -> tuple[str, replica.Answer]:
        """Ask the version that a point between 0 and 1 falls to; give its key and its answer."""


class Router:
    """Knows which version gets which share of a model's requests."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._shares: dict[str, list[tuple[float, Route]]] = {}
        self._trials: dict[str, Trial] = {}

    def try_out(self, name: str, trial: Trial) -> None:
        """Let a trial decide who answers, until the shares are set."""
        self._trials[name] = trial

    async def ask(
        self, name: str, question: replica.Question, key: str = ""
    ) -> tuple[str, replica.Answer]:
        """Ask a model; give the key of the version that answered, and its answer.

        While there are two, requests of one `key` go to one of them.
        """
        trial = self._trials.get(name)
        if trial is not None:
            return await trial.ask(question, _point(name, key) if key else self._chance())
        route = self.pick(name)
        return route.key, await route.ask(question)

    def shift(self, name: str, shares: Mapping[Route, float]) -> None:
        """Set the shares, from the next request on; a trial is over."""
        self._trials.pop(name, None)
        given = [(weight, route) for route, weight in shares.items() if weight > 0]
        if given:
            self._shares[name] = given
        else:
            self._shares.pop(name, None)

    def pick(self, name: str) -> Route:
        """Choose who answers the next request; raise NotDeployed."""
        shares = self._shares.get(name)
        if shares is None:
            raise NotDeployed(name)
        point = self._chance() * sum(weight for weight, _ in shares)
        for weight, route in shares:
            point -= weight
            if point < 0:
                return route
        return shares[-1][1]


def _point(name: str, key: str) -> float:
    """Give a key's place between 0 and 1, the same for every host and after every start."""
    digest = hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
