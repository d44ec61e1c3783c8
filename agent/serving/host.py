"""Owns what a serving host does by itself: it brings about, and keeps, what is to be served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import msgspec
import structlog

from agent import tasks
from agent.bus import endpoints, journal
from agent.serving import deployer, desired, replica, routes
from protocol import problems, serving, subjects

log = structlog.get_logger(__name__)

FOLLOW_S = 2.0


class NotYet(endpoints.Refusal):
    """The model is to be served, or may be: the host has just started."""

    def __init__(self, name: str) -> None:
        message = f"model {name[:64]!r} is not ready yet"
        super().__init__(problems.Problem("unavailable", message, retryable=True))


class BusAway(endpoints.Refusal):
    """Nothing can be changed without the bus."""

    def __init__(self) -> None:
        super().__init__(problems.Problem("unavailable", "the bus is away", retryable=True))


class Conflict(endpoints.Refusal):
    """Somebody else has changed what is to be served of the model."""

    def __init__(self, changed: desired.Changed) -> None:
        super().__init__(problems.Problem("conflict", str(changed), retryable=True))


class Bus(msgspec.Struct, frozen=True):
    """What the host needs of the bus."""

    desired: desired.Desired
    journal: journal.Journal


class Host:
    """Serves models."""

    def __init__(self, deploys: deployer.Deployer, names: subjects.Subjects, url: str) -> None:
        self.deployer = deploys
        self.changing = asyncio.Lock()
        """Held by whoever changes what is served."""
        self.waiting: frozenset[str] = frozenset()
        """Models that are to be served and are not yet."""
        self.caught_up = False
        """Whether it was ever read what is to be served."""
        self.needed = True
        """Whether there is, or may be, anything to serve."""
        self._names = names
        self._url = url
        self._bus: Bus | None = None
        self._woken = asyncio.Event()
        self._applied: dict[str, desired.Entry] = {}
        self._about: dict[str, replica.About] = {}
        self._labels: dict[str, str] = {}
        """The version of the model by the key of what is deployed."""
        self._errands: set[asyncio.Task[None]] = set()

    @property
    def bus(self) -> Bus:
        """Give the bus; raise BusAway."""
        if self._bus is None:
            raise BusAway
        return self._bus

    @contextlib.contextmanager
    def attached(self, bus: Bus) -> Iterator[None]:
        """Have a bus while the context lasts."""
        self._bus = bus
        self._woken.set()
        try:
            yield
        finally:
            self._bus = None

    async def close(self) -> None:
        """Stop what is under way; what is deployed ends with its cluster."""
        await tasks.end(*self._errands)

    async def follow(self) -> None:
        """Bring about what is to be served, again and again, until cancelled."""
        while True:
            try:
                if self._bus is not None:
                    await self._catch_up(self._bus)
            except Exception as error:  # noqa: BLE001 - the bus may be away: all goes on as it is
                log.warning("endpoints.not_read", reason=str(error) or type(error).__name__)
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_S):
                    await self._woken.wait()

    def served(self) -> dict[str, tuple[str, replica.About]]:
        """Give each model that is served, with its newest version and what is known of it."""
        found = {}
        for name, entry in sorted(self._applied.items()):
            for wanted in entry.versions[-1:]:
                found[name] = (wanted.version, self._about[version(name, wanted).key])
        return found

    async def ask(self, name: str, question: replica.Question) -> tuple[str, deployer.Told]:
        """Ask a model; give the version that answered, and its answer. Raises a Refusal."""
        try:
            told = await self.deployer.ask(name, question)
        except routes.NotDeployed:
            if self.caught_up and name not in self.waiting:
                raise
            raise NotYet(name) from None
        return self._labels[told.key], told

    def endpoint(self, entry: desired.Entry) -> serving.Endpoint:
        """Describe one endpoint."""
        applied = self._applied.get(entry.name)
        ready = applied is not None and applied.versions == entry.versions
        return serving.Endpoint(
            entry.name,
            "serving" if ready else "starting",
            desired.shown(entry),
            f"{self._url}/v1/models/{entry.name}:predict",
            self._names.predict(entry.name),
        )

    @contextlib.asynccontextmanager
    async def started(self, candidate: deployer.Version) -> AsyncIterator[None]:
        """Start a version; where what follows fails, stop it, unless it served before."""
        known = candidate.key in self._about
        await self._wait_stopped()
        try:
            self._about[candidate.key] = await self.deployer.start(candidate)
            yield
        except BaseException as error:
            if not known:
                self._about.pop(candidate.key, None)
                await self.deployer.stop(candidate.key)
            if isinstance(error, deployer.NotStarted):
                raise endpoints.Refusal(error.problem) from error
            raise

    async def change(self, entry: desired.Entry, revision: int) -> None:
        """Write down what is to be served, and bring it about."""
        try:
            await self.bus.desired.put(entry, revision)
        except desired.Changed as error:
            raise Conflict(error) from error
        await self._apply(entry)

    async def _catch_up(self, bus: Bus) -> None:
        entries = [entry for entry, _ in await bus.desired.all()]
        behind = [one for one in entries if one.versions != self._known(one.name)]
        self.waiting = frozenset(one.name for one in behind if one.versions)
        self.caught_up = True
        self.needed = any(one.versions for one in entries)
        for one in behind:
            async with self.changing:
                entry, _ = await bus.desired.get(one.name)  # it may have changed meanwhile
                await self._apply_or_tell(entry)

    def _known(self, name: str) -> list[desired.Wanted]:
        applied = self._applied.get(name)
        return applied.versions if applied else []

    async def _apply_or_tell(self, entry: desired.Entry) -> None:
        try:
            await self._apply(entry)
        except deployer.NotStarted as error:
            log.error("endpoint.not_started", model=entry.name, reason=str(error))  # noqa: TRY400 - it says it all
        else:
            self.waiting -= {entry.name}

    async def _apply(self, entry: desired.Entry) -> None:
        """Start what is missing, give each version its share, and stop what has none."""
        await self._wait_stopped()
        before = {version(entry.name, one).key for one in self._known(entry.name)}
        shares = {}
        for wanted in entry.versions:
            one = version(entry.name, wanted)
            self._about[one.key] = await self.deployer.start(one)
            self._labels[one.key] = wanted.version
            shares[one.key] = wanted.weight
        self.deployer.shift(entry.name, shares)
        self._applied[entry.name] = entry
        for key in before - set(shares):
            self._about.pop(key, None)
            self._errand(self.deployer.stop(key))

    async def _wait_stopped(self) -> None:
        """Start nothing while something stops: it may be the same."""
        if self._errands:
            await asyncio.wait(self._errands)

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="stop")
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)


def version(name: str, wanted: desired.Wanted) -> deployer.Version:
    """Give what is deployed for a version that is wanted."""
    return deployer.Version(name, wanted.model, wanted.replicas)
