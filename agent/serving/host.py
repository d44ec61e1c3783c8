"""Owns what a serving host does: it brings about what is to be served, and changes it on command.

A version serves once it was loaded, has predicted, and stands in the bucket: in this order, so that
whoever starts the host anew finds only versions that work. A run's owner that is no owner any more
is found out by the run's journal, right before the bucket is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import msgspec
import structlog

from agent import tasks
from agent.bus import endpoints, journal
from agent.serving import deployer, desired, replica
from protocol import codec, events, problems, serving, subjects

log = structlog.get_logger(__name__)

FOLLOW_S = 2.0


class Superseded(endpoints.Refusal):
    """Another owner of the run deploys this now, or has decided not to."""

    def __init__(self, epoch: int, newer: int) -> None:
        message = f"the run's owner of epoch {newer} deploys, not that of {epoch}"
        super().__init__(problems.Problem("conflict", message))


class Halted(endpoints.Refusal):
    """The deployment was stopped."""

    def __init__(self, key: str) -> None:
        super().__init__(problems.Problem("cancelled", f"deployment {key!r} was stopped"))


class Bus(msgspec.Struct, frozen=True):
    """What the host needs of the bus."""

    desired: desired.Desired
    journal: journal.Journal


class _Job:
    """A deployment that is under way; `epoch` is the highest of those who have asked for it."""

    def __init__(self, command: serving.DeployModel) -> None:
        self.command = command
        self.epoch = command.epoch
        self.task: asyncio.Task[serving.Endpoint]


class Host:
    """Serves models."""

    def __init__(self, deploys: deployer.Deployer, names: subjects.Subjects, url: str) -> None:
        self._deployer = deploys
        self._names = names
        self._url = url
        self._bus: Bus | None = None
        self._changing = asyncio.Lock()
        self._applied: dict[str, desired.Entry] = {}
        self._about: dict[str, replica.About] = {}
        self._labels: dict[str, str] = {}
        """The version of the model by the key of what is deployed."""
        self._jobs: dict[str, _Job] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self.waiting: frozenset[str] = frozenset()
        """Models that are to be served and are not yet."""
        self.needed = True
        """Whether there is, or may be, anything to serve."""

    @contextlib.contextmanager
    def attached(self, bus: Bus) -> Iterator[None]:
        """Have a bus while the context lasts."""
        self._bus = bus
        try:
            yield
        finally:
            self._bus = None

    async def close(self) -> None:
        """Stop what is under way; what is deployed ends with its cluster."""
        await tasks.end(*(job.task for job in self._jobs.values()), *self._errands)

    async def follow(self) -> None:
        """Bring about what is to be served, again and again, until cancelled."""
        while True:
            try:
                if self._bus is not None:
                    await self._catch_up(self._bus)
            except Exception as error:  # noqa: BLE001 - the bus may be away: all goes on as it is
                log.warning("endpoints.not_read", reason=str(error) or type(error).__name__)
            await asyncio.sleep(FOLLOW_S)

    def served(self) -> dict[str, tuple[str, replica.About]]:
        """Give each model that is served, with a version and what is known of it."""
        found = {}
        for name, entry in sorted(self._applied.items()):
            for wanted in entry.versions[-1:]:
                found[name] = (wanted.version, self._about[_version(name, wanted).key])
        return found

    async def ask(self, name: str, question: replica.Question) -> tuple[str, deployer.Told]:
        """Ask a model; give the version that answered, and its answer. Raises a Refusal."""
        told = await self._deployer.ask(name, question)
        return self._labels[told.key], told

    async def deploy(self, command: serving.DeployModel) -> serving.Endpoint:
        """Let a version serve; asked again, attach to what is under way."""
        job = self._jobs.get(command.key)
        if job is None:
            job = self._jobs[command.key] = _Job(command)
            job.task = asyncio.create_task(self._deploy(job), name="deploy")
            job.task.add_done_callback(lambda _: self._jobs.pop(command.key))
        job.epoch = max(job.epoch, command.epoch)
        await asyncio.wait({job.task})
        if job.task.cancelled():
            raise Halted(command.key)
        return job.task.result()

    async def halt(self, command: serving.HaltDeploy) -> serving.DeployHalted:
        """Stop a deployment that is under way."""
        job = self._jobs.get(command.key)
        if job is not None:
            await tasks.end(job.task, again_s=60.0)
        halted = job is not None and job.task.cancelled()
        return serving.DeployHalted(command.key, halted)

    async def undeploy(self, command: serving.Undeploy) -> serving.Endpoint:
        """Take an endpoint away."""
        bus = self._attached()
        async with self._changing:
            entry, revision = await bus.desired.get(command.name)
            if not entry.versions:
                message = f"no model {command.name!r} is deployed"
                raise endpoints.Refusal(problems.Problem("not_found", message, path="$.name"))
            await self._change(msgspec.structs.replace(entry, versions=[]), revision)
        return serving.Endpoint(command.name, "gone")

    async def listed(self, query: serving.EndpointQuery) -> serving.EndpointList:
        """List what is to be served, and whether it is."""
        entries = [entry for entry, _ in await self._attached().desired.all() if entry.versions]
        wanted = [one for one in entries if query.name in {None, one.name}]
        return serving.EndpointList([self.endpoint(one) for one in wanted])

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

    async def _deploy(self, job: _Job) -> serving.Endpoint:
        bus, command = self._attached(), job.command
        async with self._changing:
            entry, revision = await bus.desired.get(command.name)
            if command.key in entry.done:
                return self.endpoint(entry)
            await self._check_owner(bus, job)
            wanted = desired.Wanted(command.version, command.model, command.replicas)
            version = _version(command.name, wanted)
            async with self._started(version):
                await self._deployer.try_out(version, command.rows)
                await self._check_owner(bus, job)
                done = desired.Done(command.version, command.model.digest, job.epoch)
                known = entry.with_done(command.key, done)
                changed = desired.Entry(command.name, [wanted], known)
                await self._change(changed, revision)
        log.info("endpoint.deployed", model=command.name, version=command.version)
        return self.endpoint(changed)

    @contextlib.asynccontextmanager
    async def _started(self, version: deployer.Version) -> AsyncIterator[None]:
        """Start a version; where what follows fails, stop it, unless it served before."""
        known = version.key in self._about
        await self._wait_stopped()
        try:
            self._about[version.key] = await self._deployer.start(version)
            yield
        except BaseException as error:
            if not known:
                self._about.pop(version.key, None)
                await self._deployer.stop(version.key)
            if isinstance(error, deployer.NotStarted):
                raise endpoints.Refusal(error.problem) from error
            raise

    async def _check_owner(self, bus: Bus, job: _Job) -> None:
        last = await bus.journal.last(job.command.run_id)
        if last is None:
            message = f"there is no run {job.command.run_id!r}"
            raise endpoints.Refusal(problems.Problem("not_found", message, path="$.run_id"))
        epoch = codec.decode(last[1], events.Commit).epoch
        if epoch > job.epoch:
            raise Superseded(job.epoch, epoch)

    async def _change(self, entry: desired.Entry, revision: int) -> None:
        """Write down what is to be served, and bring it about."""
        try:
            await self._attached().desired.put(entry, revision)
        except desired.Changed as error:
            problem = problems.Problem("conflict", str(error), retryable=True)
            raise endpoints.Refusal(problem) from error
        await self._apply(entry)

    async def _catch_up(self, bus: Bus) -> None:
        entries = [entry for entry, _ in await bus.desired.all()]
        behind = [one for one in entries if one.versions != self._known(one.name)]
        self.waiting = frozenset(one.name for one in behind if one.versions)
        self.needed = bool(self._jobs) or any(one.versions for one in entries)
        for one in behind:
            async with self._changing:
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
        before = {_version(entry.name, one).key for one in self._known(entry.name)}
        shares = {}
        for wanted in entry.versions:
            version = _version(entry.name, wanted)
            self._about[version.key] = await self._deployer.start(version)
            self._labels[version.key] = wanted.version
            shares[version.key] = wanted.weight
        self._deployer.shift(entry.name, shares)
        self._applied[entry.name] = entry
        for key in before - set(shares):
            self._about.pop(key, None)
            self._errand(self._deployer.stop(key))

    async def _wait_stopped(self) -> None:
        """Start nothing while something stops: it may be the same."""
        if self._errands:
            await asyncio.wait(self._errands)

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="stop")
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _attached(self) -> Bus:
        if self._bus is None:
            problem = problems.Problem("unavailable", "the bus is away", retryable=True)
            raise endpoints.Refusal(problem)
        return self._bus


def _version(name: str, wanted: desired.Wanted) -> deployer.Version:
    return deployer.Version(name, wanted.model, wanted.replicas)
