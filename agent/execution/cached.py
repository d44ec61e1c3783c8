"""Owns the executor that looks into the step cache first; equal work is done once at a time."""

from __future__ import annotations

import asyncio
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from agent.artifacts import cache, store
from agent.execution import attempt, base
from agent.run import effects
from stages import kit, registry

log = structlog.get_logger(__name__)


class _Known(msgspec.Struct, frozen=True):
    """What a piece of work is found by."""

    key: str
    components: cache.Components


class _Job:
    """One attempt while it runs here, and the watcher that the inner executor tells."""

    def __init__(self, watcher: base.Watcher) -> None:
        self.stopped = asyncio.Event()
        self.substituted = False
        """A fallback stood in: what came out is not what this work makes, so it is not kept."""
        self._watcher = watcher

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
        self._store = artifact_store
        self._services = services
        self._leading: dict[str, asyncio.Future[base.Succeeded | None]] = {}
        self._jobs: dict[effects.WorkKey, _Job] = {}

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Run one attempt, unless what it would make is there or about to be."""
        job = self._jobs[work.key] = _Job(watcher)
        try:
            known = None
            if work.cache != "off":
                known = await asyncio.to_thread(self._identify, work)
            if known is None:
                return await self._made(work, job)
            return await self._shared(work, known, job)
        finally:
            del self._jobs[work.key]

    async def _shared(self, work: effects.Work, known: _Known, job: _Job) -> base.Outcome:
        """Follow whoever does the same work; lead where nobody does, or nobody manages to."""
        while work.cache == "use" and (leader := self._leading.get(known.key)):
            if not await job.followed(leader):
                return base.Halted("not_started", "another run does the same work")
            made = leader.result()
            if made is not None:
                return _again(made)
        return await self._lead(work, known, job)

    async def _lead(self, work: effects.Work, known: _Known, job: _Job) -> base.Outcome:
        lead: asyncio.Future[base.Succeeded | None] = asyncio.get_running_loop().create_future()
        mine = self._leading.setdefault(known.key, lead) is lead
        made: base.Succeeded | None = None
        try:
            outcome = await self._found(work, known) or await self._made(work, job)
            if isinstance(outcome, base.Succeeded) and not job.substituted:
                outcome = made = await self._kept(work, known, outcome)
            return outcome
        finally:
            lead.set_result(made)
            if mine:
                del self._leading[known.key]

    async def _made(self, work: effects.Work, job: _Job) -> base.Outcome:
        if job.stopped.is_set():
            return base.Halted("not_started")
        return await self._inner.run(work, job)

    async def _found(self, work: effects.Work, known: _Known) -> base.Succeeded | None:
        if work.cache != "use":
            return None
        record = await asyncio.to_thread(self._cache.lookup, work.use, known.key)
        if record is None:
            return None
        return base.Succeeded(record.outputs, record.metrics, cached=True, cache_key=known.key)

    async def _kept(
        self, work: effects.Work, known: _Known, made: base.Succeeded
    ) -> base.Succeeded:
        code = str(known.components["code"])
        full = msgspec.structs.replace(made, cache_key=known.key, code_version=code)
        if not made.cached:
            await asyncio.to_thread(
                self._cache.remember,
                work.use,
                known.key,
                known.components,
                made.outputs,
                made.metrics,
            )
        return full

    def _identify(self, work: effects.Work) -> _Known | None:
        """Gather what decides the outputs; None where that cannot be known. Blocks."""
        definition = registry.stages().get(work.use)
        if definition is None or not definition.cacheable:
            return None
        try:
            params, inputs = self._element(work, definition)
            source = self._fingerprint(work, definition, params)
        except Exception as error:  # noqa: BLE001 - the attempt itself meets it again and reports it
            log.debug("cache.not_identified", stage=work.key.stage, reason=str(error))
            return None
        if source is None:
            return None
        parts = cache.components(definition, params, work.seed, inputs, source)
        return _Known(cache.key_of(parts), parts)

    def _element(
        self, work: effects.Work, definition: kit.Definition
    ) -> tuple[dict[str, Any], dict[str, str | list[str]]]:
        """Count the element of a fan-out as the parameter or input that it becomes."""
        params, inputs = dict(work.params), attempt.digests(work.inputs)
        item, into = work.item, work.item_into
        if item is None or into is None:
            return params, inputs
        if into in {port.name for port in definition.inputs}:
            return params, inputs | {into: item.source.digest}
        return params | {into: attempt.element(self._store, item, into)}, inputs

    def _fingerprint(
        self, work: effects.Work, definition: kit.Definition, params: dict[str, Any]
    ) -> str | None:
        stage = attempt.decode(definition, params)
        if definition.cls.fingerprint is kit.Stage.fingerprint:
            return ""
        with tempfile.TemporaryDirectory(prefix="mlpm-") as folder:
            context = kit.Context(
                workdir=pathlib.Path(folder), services=self._services, seed=work.seed
            )
            return stage.fingerprint(context)

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Stop an attempt; one that waits for another's work lets that go on."""
        job = self._jobs.get(key)
        if job is not None:
            job.stopped.set()
            await self._inner.stop(key, force=force)

    async def close(self) -> None:
        """Close the inner executor."""
        await self._inner.close()


def _again(made: base.Succeeded) -> base.Succeeded:
    """Give what another attempt has just made."""
    return base.Succeeded(
        made.outputs,
        made.metrics,
        cached=True,
        cache_key=made.cache_key,
        code_version=made.code_version,
    )
