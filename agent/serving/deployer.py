"""Owns the contract of a deployer: where versions of models are started, asked and stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from agent.serving import replica, trials
from protocol import artifacts, problems, serving


class NotStarted(Exception):
    """A version does not serve; the problem says why."""

    def __init__(self, name: str, problem: problems.Problem) -> None:
        super().__init__(f"{name}: {problem.message}")
        self.name = name
        self.problem = problem


class Version(msgspec.Struct, frozen=True):
    """One version of a model as it is deployed. Equal models under one name are one deployment."""

    name: str
    model: artifacts.ArtifactRef
    replicas: int = 1

    @property
    def key(self) -> str:
        """Name it among all that is deployed."""
        return f"{self.name}-{self.model.digest[7:19]}"


class Told(msgspec.Struct, frozen=True):
    """An answer, and the version that gave it."""

    key: str
    number: int
    """0, or that of a problem, as in HTTP."""
    body: bytes


class Deployer(Protocol):
    """Starts versions beside those that serve, and moves the requests over. Failures raise."""

    async def start(self, version: Version) -> replica.About:
        """Start a version, or resize it, and wait until it is loaded; raise NotStarted.

        It gets no requests yet. One that did not start leaves nothing behind, and touches no other.
        """

    async def answer(self, key: str, question: replica.Question) -> replica.Answer:
        """Ask a version that may not serve yet."""

    async def score(self, key: str, held_back: serving.HeldBack) -> replica.Answer:
        """Have a version score itself on rows with their target: a number as JSON, or a problem."""

    async def is_whole(self, version: Version) -> bool:
        """Tell whether all replicas of a version run."""

    def shift(self, name: str, weights: Mapping[str, float]) -> None:
        """Give each version of a model, by key, its share of the requests from now on."""

    def share(
        self, name: str, before: str, candidate: str, percent: float, answer_s: float
    ) -> trials.Trial:
        """Give a version its part of the requests, with the version before to stand in for it."""

    async def stop(self, key: str) -> None:
        """Stop a version once what it was asked is answered."""

    async def ask(self, name: str, question: replica.Question, key: str = "") -> Told:
        """Ask a model; raise endpoints.Refusal where no version of it can answer.

        While there are two versions, requests of one `key` go to one of them.
        """
