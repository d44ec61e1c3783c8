"""Owns what a serving host is told: deploy, halt, undeploy, list.

A version serves once it was loaded, has predicted, and stands in the bucket: in this order, so that
whoever starts the host anew finds only versions that work. A run's owner that is no owner any more
is found out by the run's journal, right before the bucket is changed.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from agent import tasks
from agent.bus import endpoints
from agent.serving import desired, host
from protocol import codec, events, problems, serving

log = structlog.get_logger(__name__)


class Superseded(endpoints.Refusal):
    """Another owner of the run deploys this now, or has decided not to."""

    def __init__(self, epoch: int, newer: int) -> None:
        message = f"the run's owner of epoch {newer} deploys, not that of {epoch}"
        super().__init__(problems.Problem("conflict", message))


class NoSuchRun(endpoints.Refusal):
    """Nobody can own a run that there is not."""

    def __init__(self, run_id: str) -> None:
        message = f"there is no run {run_id!r}"
        super().__init__(problems.Problem("not_found", message, path="$.run_id"))


class NotDeployed(endpoints.Refusal):
    """There is nothing to take away."""

    def __init__(self, name: str) -> None:
        message = f"no model {name!r} is deployed"
        super().__init__(problems.Problem("not_found", message, path="$.name"))


class Halted(endpoints.Refusal):
    """The deployment was stopped."""

    def __init__(self, key: str) -> None:
        super().__init__(problems.Problem("cancelled", f"deployment {key!r} was stopped"))


class _Job:
    """A deployment that is under way; `epoch` is the highest of those who have asked for it."""

    def __init__(self, command: serving.DeployModel) -> None:
        self.command = command
        self.epoch = command.epoch
        self.task: asyncio.Task[serving.Endpoint]


class Orders:
    """Carries out commands; each can come again."""

    def __init__(self, serves: host.Host) -> None:
        self._host = serves
        self._jobs: dict[str, _Job] = {}

    @property
    def under_way(self) -> bool:
        """Tell whether something is being deployed."""
        return bool(self._jobs)

    async def close(self) -> None:
        """Stop what is under way."""
        await tasks.end(*(job.task for job in self._jobs.values()))

    async def deploy(self, command: serving.DeployModel) -> serving.Endpoint:
        """Let a version serve; asked again, attach to what is under way."""
        job = self._jobs.get(command.key)
        if job is None:
            job = self._jobs[command.key] = _Job(command)
            job.task = asyncio.create_task(self._deployed(job), name="deploy")
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
        async with self._host.changing:
            entry, revision = await self._host.bus.desired.get(command.name)
            if not entry.versions:
                raise NotDeployed(command.name)
            await self._host.change(msgspec.structs.replace(entry, versions=[]), revision)
        log.info("endpoint.undeployed", model=command.name, by=command.by)
        return serving.Endpoint(command.name, "gone")

    async def listed(self, query: serving.EndpointQuery) -> serving.EndpointList:
        """List what is to be served, and whether it is."""
        entries = [entry for entry, _ in await self._host.bus.desired.all() if entry.versions]
        wanted = [one for one in entries if query.name in {None, one.name}]
        return serving.EndpointList([self._host.endpoint(one) for one in wanted])

    async def _deployed(self, job: _Job) -> serving.Endpoint:
        try:
            return await self._deploy(job)
        except host.Conflict:  # another host may have been asked for the very same
            entry, _ = await self._host.bus.desired.get(job.command.name)
            if job.command.key not in entry.done:
                raise
            return self._host.endpoint(entry)

    async def _deploy(self, job: _Job) -> serving.Endpoint:
        command = job.command
        async with self._host.changing:
            entry, revision = await self._host.bus.desired.get(command.name)
            if command.key in entry.done:
                return self._host.endpoint(entry)
            await self._check_owner(job)
            wanted = desired.Wanted(command.version, command.model, command.replicas)
            candidate = host.version(command.name, wanted)
            async with self._host.started(candidate):
                await self._host.deployer.try_out(candidate, command.rows)
                await self._check_owner(job)
                done = desired.Done(command.version, command.model.digest, job.epoch)
                known = entry.with_done(command.key, done)
                changed = desired.Entry(command.name, [wanted], known)
                await self._host.change(changed, revision)
        log.info("endpoint.deployed", model=command.name, version=command.version)
        return self._host.endpoint(changed)

    async def _check_owner(self, job: _Job) -> None:
        run_id = job.command.run_id
        last = await self._host.bus.journal.last(run_id)
        if last is None:
            raise NoSuchRun(run_id)
        epoch = codec.decode(last[1], events.Commit).epoch
        if epoch > job.epoch:
            raise Superseded(job.epoch, epoch)
