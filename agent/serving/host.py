"""Owns what a serving host does by itself: it brings about, and keeps, what is to be served."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import msgspec
import structlog

from agent import tasks
from agent.bus import endpoints, journal
from agent.serving import (
    deployer,
    desired,
    experiments,
    refusals,
    replica,
    routes,
    trials,
    warmth,
)
from protocol import serving, subjects

log = structlog.get_logger(__name__)

FOLLOW_S = 2.0
BUS_S = 60.0
"""How long what is under way waits for the bus: an agent that dies takes its own along."""


class Bus(msgspec.Struct, frozen=True):
    """What the host needs of the bus."""

    desired: desired.Desired
    journal: journal.Journal


class Host:
    """Serves models."""

    def __init__(self, deploys: deployer.Deployer, names: subjects.Subjects, url: str) -> None:
        self.deployer = deploys
        self.waiting: frozenset[str] = frozenset()
        """Models that are to be served and are not yet."""
        self.caught_up = False
        """Whether it was ever read what is to be served."""
        self.needed = True
        """Whether there is, or may be, anything to serve."""
        self._names = names
        self._url = url
        self._bus: Bus | None = None
        self._there = asyncio.Event()
        self._woken = asyncio.Event()
        self._applied: dict[str, desired.Entry] = {}
        self._about: dict[str, replica.About] = {}
        self._labels: dict[str, str] = {}
        """The version of the model by the key of what is deployed."""
        self._shared: dict[str, list[serving.EndpointVersion]] = {}
        """The versions of a model of which one is tried out, with their shares."""
        self._compared: dict[str, experiments.Experiment] = {}
        """The models of which two versions are compared by outcomes."""
        self._errands: set[asyncio.Task[None]] = set()
        self._warm = warmth.Warm(self._let_go)
        self._locks: collections.defaultdict[str, asyncio.Lock]
        self._locks = collections.defaultdict(asyncio.Lock)

    @property
    def bus(self) -> Bus:
        """Give the bus; raise refusals.BusAway."""
        if self._bus is None:
            raise refusals.BusAway
        return self._bus

    def changing(self, name: str) -> asyncio.Lock:
        """Give what is held by whoever changes what is served of a model."""
        return self._locks[name]

    @contextlib.contextmanager
    def attached(self, bus: Bus) -> Iterator[None]:
        """Have a bus while the context lasts."""
        self._bus = bus
        self._there.set()
        self._woken.set()
        try:
            yield
        finally:
            self._there.clear()
            self._bus = None

    async def wait_bus(self) -> None:
        """Wait until there is a bus, for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BUS_S):
                await self._there.wait()

    async def close(self) -> None:
        """Stop what is under way; what is deployed ends with its cluster."""
        self._warm.close()
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

    async def ask(
        self, name: str, question: replica.Question, key: str = ""
    ) -> tuple[deployer.Told, dict[str, str]]:
        """Ask a model; give the answer, and the headers that tell of it. Raises a Refusal."""
        try:
            told = await self.deployer.ask(name, question, key)
        except routes.NotDeployed:
            if self.caught_up and name not in self.waiting:
                raise
            raise refusals.NotYet(name) from None
        headers = {serving.MODEL_VERSION: self._labels[told.key]}
        compared = self._compared.get(name)
        if compared is not None and told.number == replica.OK:
            headers[serving.PREDICTION_ID] = compared.answered(told.key, key)
        return told, headers

    def take_outcome(self, name: str, outcome: serving.Outcome) -> serving.OutcomeTaken:
        """Take what came of a prediction; raise a Refusal where it is not known."""
        compared = self._compared.get(name)
        if compared is None:
            raise experiments.UnknownPrediction(name, outcome.prediction)
        key, counted = compared.take(outcome)
        return serving.OutcomeTaken(outcome.prediction, self._labels[key], counted)

    @contextlib.contextmanager
    def comparing(
        self, entry: desired.Entry, wanted: desired.Wanted, terms: serving.Versus
    ) -> Iterator[experiments.Experiment]:
        """Take outcomes while the context lasts."""
        assert entry.newest is not None
        before, new = (version(entry.name, one).key for one in (entry.newest, wanted))
        made = experiments.Experiment(entry.name, terms, before, new)
        self._compared[entry.name] = made
        try:
            yield made
        finally:
            del self._compared[entry.name]

    def endpoint(self, entry: desired.Entry) -> serving.Endpoint:
        """Describe one endpoint."""
        applied = self._applied.get(entry.name)
        ready = applied is not None and applied.versions == entry.versions
        return serving.Endpoint(
            entry.name,
            "serving" if ready else "starting",
            self._shared.get(entry.name) or desired.shown(entry),
            f"{self._url}/v1/models/{entry.name}:predict",
            self._names.predict(entry.name),
            entry.before.version if entry.before else "",
        )

    @contextlib.asynccontextmanager
    async def started(self, candidate: deployer.Version) -> AsyncIterator[None]:
        """Start a version; where what follows fails, all is again as it was."""
        serves = candidate.key in self._keys(candidate.name)
        await self._wait_stopped()
        self._warm.take(candidate.name, candidate.key)
        try:
            self._about[candidate.key] = await self.deployer.start(candidate)
            yield
        except BaseException as error:
            self._restore(candidate.name)
            if not serves:
                self._about.pop(candidate.key, None)
                await self.deployer.stop(candidate.key)
            if isinstance(error, deployer.NotStarted):
                raise endpoints.Refusal(error.problem) from error
            raise

    async def settle(self, entry: desired.Entry) -> desired.Wanted | None:
        """Bring about what is to be served before it is changed; give the version that serves."""
        if entry.versions != self._known(entry.name):
            await self._apply_or_tell(entry)
        return entry.newest if entry.versions == self._known(entry.name) else None

    def share(
        self, entry: desired.Entry, wanted: desired.Wanted, percent: float, answer_s: float
    ) -> trials.Trial:
        """Give a version that is started its part of the requests."""
        assert entry.newest is not None
        before, candidate = (version(entry.name, one).key for one in (entry.newest, wanted))
        self._labels[candidate] = wanted.version
        part = msgspec.structs.replace(wanted, weight=percent / 100)
        rest = msgspec.structs.replace(entry.newest, weight=1 - percent / 100)
        self._shared[entry.name] = [desired.told(rest), desired.told(part)]
        return self.deployer.share(entry.name, before, candidate, percent, answer_s)

    async def change(self, entry: desired.Entry, revision: int, keep_s: float = 0.0) -> None:
        """Write down what is to be served, and bring it about; keep what served for a while."""
        try:
            await self.bus.desired.put(entry, revision)
        except desired.Changed as error:
            raise refusals.Conflict(error) from error
        await self._apply(entry, keep_s)

    async def _catch_up(self, bus: Bus) -> None:
        entries = [entry for entry, _ in await bus.desired.all()]
        behind = [one for one in entries if one.versions != self._known(one.name)]
        self.waiting = frozenset(one.name for one in behind if one.versions)
        self.caught_up = True
        self.needed = any(one.versions for one in entries)
        for one in behind:
            if self.changing(one.name).locked():
                continue  # whoever changes it sees to it, and may take long
            async with self.changing(one.name):
                entry, _ = await bus.desired.get(one.name)  # it may have changed meanwhile
                await self._apply_or_tell(entry)

    def _known(self, name: str) -> list[desired.Wanted]:
        applied = self._applied.get(name)
        return applied.versions if applied else []

    def _keys(self, name: str) -> set[str]:
        return {version(name, one).key for one in self._known(name)}

    async def _apply_or_tell(self, entry: desired.Entry) -> None:
        try:
            await self._apply(entry)
        except deployer.NotStarted as error:
            log.error("endpoint.not_started", model=entry.name, reason=str(error))  # noqa: TRY400 - it says it all
        else:
            self.waiting -= {entry.name}

    async def _apply(self, entry: desired.Entry, keep_s: float = 0.0) -> None:
        """Start what is missing, give each version its share, and stop what has none."""
        await self._wait_stopped()
        before = self._keys(entry.name)
        for wanted in entry.versions:
            one = version(entry.name, wanted)
            self._warm.take(entry.name, one.key)
            self._about[one.key] = await self.deployer.start(one)
            self._labels[one.key] = wanted.version
        self._applied[entry.name] = entry
        self.needed |= bool(entry.versions)  # the bus may be gone before it is read again
        self._shift(entry)
        spare = self._warm.take(entry.name)
        for key in (before | ({spare} if spare else set())) - self._keys(entry.name):
            if keep_s and entry.before and version(entry.name, entry.before).key == key:
                self._warm.keep(entry.name, key, keep_s)
            else:
                self._let_go(key)

    def _restore(self, name: str) -> None:
        """End a trial: who served has all requests again."""
        if name in self._shared:
            self._shift(self._applied[name])

    def _shift(self, entry: desired.Entry) -> None:
        shares = {version(entry.name, one).key: one.weight for one in entry.versions}
        self.deployer.shift(entry.name, shares)
        self._shared.pop(entry.name, None)

    def _let_go(self, key: str) -> None:
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
