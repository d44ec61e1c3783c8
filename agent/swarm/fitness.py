"""Owns whether an assignment can be taken as it is: in time, from the run's owner, readable."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator

import msgspec

from agent.artifacts import errors, store
from agent.bus import journal
from agent.execution import faults
from protocol import artifacts, codec, events, problems, swarm


class Fitness:
    """Checks assignments before anything of them runs."""

    def __init__(
        self, kept: store.Store, journals: journal.Journal, clock: Callable[[], dt.datetime]
    ) -> None:
        self._store = kept
        self._journals = journals
        self._clock = clock

    async def problem(
        self, asked: swarm.StageAssignment, capability: str
    ) -> problems.Problem | None:
        """Say what stands against doing it, if anything does."""
        if asked.use != capability:
            message = f"{asked.use!r} was put among the assignments for {capability!r}"
            return problems.Problem("invalid_field", message, path="$.use")
        if asked.deadline is not None and asked.deadline <= self._clock():
            message = f"nobody took it before its deadline, {asked.deadline.isoformat()}"
            return problems.Problem("deadline_exceeded", message)
        return await self._stale(asked) or await asyncio.to_thread(self._unreadable, asked)

    async def _stale(self, asked: swarm.StageAssignment) -> problems.Problem | None:
        """Fence an owner off that has lost its run: the journal has a newer epoch."""
        last = await self._journals.last(asked.run_id) if asked.run_id and asked.epoch else None
        if last is None:
            return None
        epoch = codec.decode(last[1], events.Commit).epoch
        if epoch <= asked.epoch:
            return None
        message = f"the run is in epoch {epoch}; whoever assigned this in {asked.epoch} has lost it"
        return problems.Problem("conflict", message, path="$.epoch", run_id=asked.run_id)

    def _unreadable(self, asked: swarm.StageAssignment) -> problems.Problem | None:
        """Find an input that cannot be read here; blocking."""
        for path, ref in _inputs(asked):
            try:
                if not self._store.renew(ref):
                    self._store.path(ref)  # it knows what is wrong
            except Exception as error:  # noqa: BLE001 - a store raises what its file system does
                problem = faults.problem_of(error)
                hint = problem.hint
                if isinstance(error, errors.ForeignArtifact):
                    hint = "let artifacts.uri be one store that both agents reach"
                return msgspec.structs.replace(problem, path=path, hint=hint, traceback=None)
        return None


def _inputs(asked: swarm.StageAssignment) -> Iterator[tuple[str, artifacts.ArtifactRef]]:
    for port, refs in asked.inputs.items():
        if isinstance(refs, list):
            yield from ((f"$.inputs.{port}[{at}]", ref) for at, ref in enumerate(refs))
        else:
            yield f"$.inputs.{port}", refs
    if asked.item is not None:
        yield "$.item.source", asked.item.source
