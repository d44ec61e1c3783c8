"""Owns the executor that looks into the step cache first; equal work is done once at a time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from agent.artifacts import cache, sources, store
from agent.execution import base, identity
from agent.run import effects
from stages import kit, registry

log = structlog.get_logger(__name__)


class _Job:
    """One attempt while it runs here, and the watcher that the inner executor tells."""

    def __init__(self, watcher: base.Watcher) -> None:
        self.stopped = asyncio.Event()
        self.substituted = False
        """A fallback stood in: what came out is not what this work makes, so it is not kept."""
        self._watcher = watcher

    def began(self) -> None:
        """Pass the beginning on."""
        self._watcher.began()

    def progress(self, fraction: float | None, message: str, metrics: Mapping[str, float]) -> None:
        """Pass a progress on."""
        self._watcher.progress(fraction, message, metrics)

    def note(self, fact: str, details: Mapping[str, Any]) -> None:
        """Pass a note on."""
        self.substituted = self.substituted or fact == "fallback_used"
        self._watcher.note(fact, details)

    async def followed(self, leader: asyncio.Future[Any]) -> bool:
        """Wait until the leader has ended; False if this attempt is stopped before."""
        stop = asyncio.create_task(self.stopped.wait(), name="follow")
        both: set[asyncio.Future[Any]] = {leader, stop}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        return not self.stopped.is_set()


class CachedExecutor:
    """Gives what was made before, or lets the inner executor make it and remembers it."""

    def __init__(
        self,
        inner: base.Executor,
        kept: cache.Cache,
        artifact_store: store.Store,
        services: kit.Services,
    ) -> None:
        self._inner = inner
        self._cache = kept
        self._identities = identity.Identities(artifact_store, services)
        self._leading: dict[str, asyncio.Future[base.Succeeded | None]] = {}
        self._jobs: dict[effects.WorkKey, _Job] = {}
        sources.freeze(registry.stages().values())

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Run one attempt, unless what it would make is there or about to be."""
        job = self._jobs[work.key] = _Job(watcher)
        try:
            if work.adopt:
                return await self._adopted(work, job)
            if identity.excluded(work):
                return await self._made(work, job)
            known = await asyncio.to_thread(self._identities.of, work)
            if isinstance(known, identity.Unknowable):
                return await self._made(work, job)
            return await self._shared(work, known, job)
        finally:
            del self._jobs[work.key]

    async def _adopted(self, work: effects.Work, job: _Job) -> base.Outcome:
        """Remember what somebody else was told to make; the cache cannot spare them the work."""
        outcome = await self._made(work, job)
        if not isinstance(outcome, base.Succeeded) or identity.excluded(work):
            return outcome
        known = await asyncio.to_thread(self._identities.of, work)
        if isinstance(known, identity.Unknowable):
            return outcome
        return await self._kept(work, known, outcome, job)

    async def _kept(
        self, work: effects.Work, known: identity.Known, made: base.Succeeded, job: _Job
    ) -> base.Succeeded:
        """Remember what was made, if it is what the key promises."""
        made = _completed(made, known, substituted=job.substituted)
        if made.cache_key is not None:
            await self._remember(work, known, made)
        return made

    async def _shared(self, work: effects.Work, known: identity.Known, job: _Job) -> base.Outcome:
        """Follow whoever does the same work; lead where nobody does, or nobody manages to."""
        while work.cache == "use" and (leader := self._leading.get(known.key)):
            if not await job.followed(leader):
                return base.Halted("not_started", "another run does the same work")
            made = leader.result()
            if made is not None:
                return _again(made)
        return await self._lead(work, known, job)

    async def _lead(self, work: effects.Work, known: identity.Known, job: _Job) -> base.Outcome:
        lead: asyncio.Future[base.Succeeded | None] = asyncio.get_running_loop().create_future()
        mine = self._leading.setdefault(known.key, lead) is lead
        made: base.Succeeded | None = None
        try:
            outcome = await self._found(work, known) or await self._made(work, job)
            if isinstance(outcome, base.Succeeded):
                outcome = await self._kept(work, known, outcome, job)
                made = outcome if outcome.cache_key is not None else None
            return outcome
        finally:
            lead.set_result(made)
            if mine:
                del self._leading[known.key]

    async def _made(self, work: effects.Work, job: _Job) -> base.Outcome:
        if job.stopped.is_set():
            return base.Halted("not_started")
        return await self._inner.run(work, job)

    async def _found(self, work: effects.Work, known: identity.Known) -> base.Succeeded | None:
        if work.cache != "use":
            return None
        try:
            record = await asyncio.to_thread(self._cache.lookup, work.use, known.key)
        except Exception:  # whatever ails the cache, the work can still be done
            log.warning("cache.not_read", stage=work.key.stage, key=known.key, exc_info=True)
            return None
        if record is None:
            return None
        return base.Succeeded(record.outputs, record.metrics, cached=True)

    async def _remember(
        self, work: effects.Work, known: identity.Known, made: base.Succeeded
    ) -> None:
        if made.cached:
            return
        remember = functools.partial(
            self._cache.remember,
            work.use,
            known.key,
            known.components,
            made.outputs,
            made.metrics,
        )
        try:
            await asyncio.to_thread(remember)
        except Exception:  # the outputs are stored: the work is done
            log.warning("cache.not_written", stage=work.key.stage, key=known.key, exc_info=True)

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Stop an attempt; one that waits for another's work lets that go on."""
        job = self._jobs.get(key)
        if job is not None:
            job.stopped.set()
            await self._inner.stop(key, force=force)

    async def close(self) -> None:
        """Close the inner executor."""
        await self._inner.close()


def _completed(made: base.Succeeded, known: identity.Known, *, substituted: bool) -> base.Succeeded:
    """Fill in the code's digest, and the key if the outputs are what the key promises.

    A fallback's are not, nor are those of a worker that was started from other code.
    """
    code = str(known.components["code"])
    ran = made.code_version or code
    if ran != code:
        log.warning("cache.code_differs", agent=code, worker=ran, key=known.key)
    key = None if substituted or ran != code else known.key
    return msgspec.structs.replace(made, cache_key=key, code_version=ran)


def _again(made: base.Succeeded) -> base.Succeeded:
    """Give what another attempt has just made."""
    return base.Succeeded(
        made.outputs,
        made.metrics,
        cached=True,
        cache_key=made.cache_key,
        code_version=made.code_version,
    )
