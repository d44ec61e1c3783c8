"""Owns what a serving host is told: deploy, halt, roll back, undeploy, list.

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
from agent.serving import desired, host, jobs, refusals, rollout
from protocol import codec, events, serving

log = structlog.get_logger(__name__)

STOP_S = 60.0
HEIR_S = 15.0
"""How long the next owner of a run may take to ask for what is under way."""
MOST_ENDED = 100


class Orders:
    """Carries out commands; each can come again."""

    def __init__(self, serves: host.Host) -> None:
        self._host = serves
        self._jobs: dict[str, jobs.Job] = {}
        self._ended: dict[str, jobs.Job] = {}
        """The last, for those who have not heard of their ends yet."""
        self._rollbacks: dict[str, asyncio.Task[serving.Endpoint]] = {}

    @property
    def under_way(self) -> bool:
        """Tell whether something is being deployed."""
        return bool(self._jobs)

    async def close(self) -> None:
        """Stop what is under way."""
        await tasks.end(*(job.task for job in self._jobs.values()), *self._rollbacks.values())

    async def deploy(self, command: serving.DeployModel) -> serving.Deployment:
        """Let a version serve; asked again, attach to what is under way."""
        job = self._job(command)
        job.attach(command)
        await job.wait_news(command.since)
        news, failed = job.unknown(command.since), job.failed
        if failed and not news:
            return await self._told(job, command)
        entry, _ = await self._host.bus.desired.get(command.name)
        under_way = failed or not job.task.done()
        return serving.Deployment(self._host.endpoint(entry), under_way=under_way, shifts=news)

    async def halt(self, command: serving.HaltDeploy) -> serving.DeployHalted:
        """Stop a deployment that is under way."""
        job = self._jobs.get(command.key)
        if job is not None:
            await tasks.end(job.task, again_s=STOP_S)
        halted = job is not None and job.task.cancelled()
        return serving.DeployHalted(command.key, halted)

    async def roll_back(self, command: serving.RollBack) -> serving.Endpoint:
        """Let the version before serve again; asked again, attach to what is under way."""
        task = self._rollbacks.get(command.key)
        if task is None:
            task = asyncio.create_task(self._rolled_back(command), name="rollback")
            self._rollbacks[command.key] = task
            task.add_done_callback(lambda _: self._rollbacks.pop(command.key))
        await asyncio.wait({task})
        return task.result()

    async def undeploy(self, command: serving.Undeploy) -> serving.Endpoint:
        """Take an endpoint away."""
        await self._stop(command.name, refusals.Stopped("the endpoint was taken away", command.by))
        async with self._host.changing(command.name):
            entry, revision = await self._host.bus.desired.get(command.name)
            if not entry.versions:
                raise refusals.NotDeployed(command.name)
            gone = msgspec.structs.replace(entry, versions=[], before=None)
            await self._host.change(gone, revision)
        log.info("endpoint.undeployed", model=command.name, by=command.by)
        return serving.Endpoint(command.name, "gone")

    async def listed(self, query: serving.EndpointQuery) -> serving.EndpointList:
        """List what is to be served, and whether it is."""
        entries = [entry for entry, _ in await self._host.bus.desired.all() if entry.versions]
        wanted = [one for one in entries if query.name in {None, one.name}]
        return serving.EndpointList([self._host.endpoint(one) for one in wanted])

    async def _told(self, job: jobs.Job, command: serving.DeployModel) -> serving.Deployment:
        """Raise why a deployment has failed; one that was given up for who asks is made anew."""
        if job.task.cancelled():
            raise job.stopped or refusals.Halted(command.key)
        error = job.task.exception()
        assert error is not None
        if isinstance(error, refusals.Superseded) and error.newer <= command.epoch:
            self._ended.pop(command.key, None)
            return await self.deploy(command)
        raise error

    def _job(self, command: serving.DeployModel) -> jobs.Job:
        """Give the deployment of a key; one that has failed only to who has waited for it."""
        ended = self._ended.get(command.key)
        if ended is not None and (command.asker in ended.askers or not ended.failed):
            return ended
        job = self._jobs.get(command.key)
        if job is None:
            self._ended.pop(command.key, None)
            job = self._jobs[command.key] = jobs.Job(command)
            job.task = asyncio.create_task(self._deployed(job), name="deploy")
            job.task.add_done_callback(lambda _: self._over(job))
        return job

    def _over(self, job: jobs.Job) -> None:
        self._ended[job.command.key] = self._jobs.pop(job.command.key)
        for key in list(self._ended)[:-MOST_ENDED]:
            del self._ended[key]
        job.wake()

    async def _stop(self, name: str, why: endpoints.Refusal) -> bool:
        """Stop what is under way for a model; tell whether there was anything."""
        found = [job for job in self._jobs.values() if job.command.name == name]
        for job in found:
            job.stopped = why
        await tasks.end(*(job.task for job in found), again_s=STOP_S)
        return any(job.task.cancelled() for job in found)

    async def _rolled_back(self, command: serving.RollBack) -> serving.Endpoint:
        why = refusals.Stopped("it was rolled back", command.by, command.reason)
        stopped = await self._stop(command.name, why)
        async with self._host.changing(command.name):
            entry, revision = await self._host.bus.desired.get(command.name)
            if command.key in entry.done:
                return self._host.endpoint(entry)
            wanted = entry.newest if stopped else entry.before
            if wanted is None:
                raise refusals.NothingBefore(command.name)
            changed = entry.served_by(wanted, command.key)
            async with self._host.started(host.version(command.name, wanted)):
                await self._host.change(changed, revision)
        told = {"version": wanted.version, "by": command.by, "reason": command.reason}
        log.info("endpoint.rolled_back", model=command.name, **told)
        return self._host.endpoint(changed)

    async def _deployed(self, job: jobs.Job) -> None:
        try:
            await self._deploy(job)
        except refusals.Conflict:  # another host may have been asked for the very same
            entry, _ = await self._host.bus.desired.get(job.command.name)
            if job.command.key not in entry.done:
                raise

    async def _deploy(self, job: jobs.Job) -> None:
        command = job.command
        async with self._host.changing(command.name):
            entry, revision = await self._host.bus.desired.get(command.name)
            if command.key in entry.done:
                return
            await self._check_owner(job)
            before = await self._host.settle(entry)
            wanted = desired.Wanted(command.version, command.model, command.replicas)
            moving = rollout.Rollout(self._host, entry, command, job.tell)
            try:
                async with self._host.started(host.version(command.name, wanted)):
                    await moving.run(wanted, before)
                    await self._host.wait_bus()
                    await self._check_owner(job, HEIR_S)
                    changed = entry.served_by(wanted, command.key, job.epoch)
                    await self._host.change(changed, revision, command.keep_s)
            except BaseException as error:
                if moving.percent is not None:
                    moving.shift("rolled_back", 0, job.why(error))
                raise
            moving.shift("serves", 100)

    async def _check_owner(self, job: jobs.Job, patience_s: float = 0.0) -> None:
        """Raise Superseded where the run has a newer owner that has not asked for it, too."""
        run_id = job.command.run_id
        last = await self._host.bus.journal.last(run_id)
        if last is None:
            raise refusals.NoSuchRun(run_id)
        epoch = codec.decode(last[1], events.Commit).epoch
        if epoch > job.epoch:
            await job.wait_epoch(epoch, patience_s)
        if epoch > job.epoch:
            raise refusals.Superseded(job.epoch, epoch)
