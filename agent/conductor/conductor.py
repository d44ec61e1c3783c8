"""Owns one run while this agent holds it: feeds the core, writes its facts, does its effects."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec
import structlog

from agent import tasks
from agent.bus import announce, journal
from agent.conductor import ledger, outcomes, scribe
from agent.execution import base
from agent.run import effects, stimuli
from protocol import events, problems, swarm

log = structlog.get_logger()

Outcome = Literal["ended", "parked"]
MAX_NOTE_BYTES = 64 * 1024
"""Of what a stage tells for the journal, which is no place for data."""

SHARED = {"training", "swarm"}
"""Placements whose work outlives its owner, for the next to attach to: the owner alone stops it."""

WriterFactory = Callable[[scribe.OnLost], scribe.Scribe]
Recall = Callable[[effects.Work], Awaitable[None]]
"""Has a training stopped that another agent asked for."""


class OwnershipLost(Exception):
    """Another agent appended to the run's journal under a newer epoch."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"another agent owns run {run_id!r} now")
        self.run_id = run_id


class Conductor:
    """Conducts one run. Everything that happens comes in by `feed`, one stimulus at a time."""

    def __init__(
        self,
        book: ledger.Ledger,
        writer: WriterFactory,
        executors: Mapping[effects.Placement, base.Executor],
        *,
        announcer: announce.Announcer,
        clock: scribe.Clock,
        recall: Recall,
        careful: bool = False,
    ) -> None:
        self.machine = book.machine
        self.run_id = book.machine.state.run_id
        self.scribe = writer(self._lost)
        self._executors = executors
        self._announcer = announcer
        self._clock = clock
        self._told = log.bind(run=self.run_id)
        self._recall = recall
        self._careful = careful
        """Launch nothing before it is stored that the run was taken: it may end this process."""
        self._done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._attempts: dict[effects.WorkKey, asyncio.Task[None]] = {}
        self._works: dict[effects.WorkKey, effects.Work] = {}
        self._unwanted: set[effects.WorkKey] = set()
        """What was to be stopped before it was launched."""
        self._errands: set[asyncio.Task[None]] = set()

    async def conduct(
        self,
        owner: str,
        problem: problems.Problem | None = None,
        kept: frozenset[effects.WorkKey] = frozenset(),
    ) -> Outcome:
        """Take the run and see it to its end, or until it waits for a person.

        With a problem it is ended at once; attempts that are `kept` go on. Raises OwnershipLost
        when another agent has taken it over.
        """
        try:
            taken = stimuli.Taken(owner, self.scribe.epoch, problem, kept)
            self.feed(taken, cause=f"agents/{owner}")
            return await self._done
        finally:
            await self._let_go()

    async def tell(self, stimulus: stimuli.Stimulus, cause: str) -> bool:
        """Let something happen to the run and wait until it is stored.

        False if the run is no longer conducted here; raises machine.Refused where the run's state
        does not allow it.
        """
        if self._done.done():
            return False
        self.feed(stimulus, cause)
        await self.scribe.flush()
        return not self.scribe.lost

    def feed(self, stimulus: stimuli.Stimulus, cause: str) -> None:
        """Let something happen to the run."""
        if self._done.done():
            return
        facts, wanted = self.machine.handle(stimulus, self._clock(), cause)
        for fact in facts:
            self._log(fact)
        deferred: list[effects.Effect] = []
        free: list[effects.Effect] = []
        for effect in wanted:
            (deferred if self._waits_for_commit(effect) else free).append(effect)
        self.scribe.record(facts, [self._action(effect) for effect in deferred])
        for effect in free:
            self._perform(effect)

    def _waits_for_commit(self, effect: effects.Effect) -> bool:
        match effect:
            case effects.Launch(after_commit=wait):
                return wait or self.scribe.behind or (self._careful and not self.scribe.begun)
            case effects.Park() | effects.End():
                return True
        return False

    def _action(self, effect: effects.Effect) -> scribe.Action:
        return lambda: self._perform(effect)

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Launch(work=work):
                self._launch(work)
            case effects.Stop(key=key, force=force):
                self._errand(self._stop(key, force=force))
            case effects.Recall(work=work):
                self._errand(self._recall_if_ours(work))
            case effects.SetTimer(name=name, at=at):
                self._set_timer(name, at)
            case effects.ClearTimer(name=name):
                self._clear_timer(name)
            case effects.Warn():
                self._errand(self._announcer.alert(self._alert(effect)))
            case effects.Park():
                self._finish("parked")
            case effects.End():
                self._finish("ended")

    def _launch(self, work: effects.Work) -> None:
        if not self._done.done():  # the run may have been let go while the start was being stored
            self._works[work.key] = work
            self._attempts[work.key] = asyncio.create_task(self._attempt(work))
            if work.adopt and work.key in self._unwanted:
                self._errand(self._stop(work.key, force=True))

    def _finish(self, outcome: Outcome) -> None:
        if not self._done.done():
            self._done.set_result(outcome)

    def _lost(self, cause: BaseException) -> None:
        if self._done.done():
            return
        lost = OwnershipLost(self.run_id) if isinstance(cause, journal.Fenced) else cause
        if lost is not cause:
            lost.__cause__ = cause
        self._done.set_exception(lost)

    async def _attempt(self, work: effects.Work) -> None:
        outcome = await self._outcome(work)
        self._attempts.pop(work.key, None)
        self._works.pop(work.key, None)
        self._unwanted.discard(work.key)
        with self._read_again():
            told = outcomes.stimulus(work.key, outcome, self.scribe.max_event_bytes)
            self.feed(told, cause=_place(work.key))

    @contextlib.contextmanager
    def _read_again(self) -> Iterator[None]:
        """Let the run be read again, and go on, where the core breaks: a defect of ours."""
        try:
            yield
        except Exception as error:
            log.exception("stimulus.not_taken", run=self.run_id)
            self._lost(error)

    async def _outcome(self, work: effects.Work) -> base.Outcome:
        if work.key in self._unwanted and not work.adopt:
            return base.Halted("not_started")
        try:
            return await self._executors[work.placement].run(work, _Watcher(self, work))
        except Exception:  # a defect of an executor must not lose the run
            log.exception("attempt.broke", run=self.run_id, stage=work.key.stage)
            return base.Failed(problems.Problem(code="internal", message="the executor broke"))

    async def _stop(self, key: effects.WorkKey, *, force: bool) -> None:
        work = self._works.get(key)
        if work is None:
            self._unwanted.add(key)  # its start may be on its way to the journal
        elif work.placement not in SHARED or await self.scribe.confirm():
            await self._executors[work.placement].stop(key, force=force)

    async def _recall_if_ours(self, work: effects.Work) -> None:
        if await self.scribe.confirm():
            await self._recall(work)

    def _set_timer(self, name: str, at: dt.datetime) -> None:
        self._clear_timer(name)
        delay = max(0.0, (at - self._clock()).total_seconds())
        self._timers[name] = asyncio.get_running_loop().call_later(delay, self._fire, name)

    def _clear_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _fire(self, name: str) -> None:
        self._timers.pop(name, None)
        with self._read_again():
            self.feed(stimuli.TimerFired(name), cause=f"timers/{name}")

    def _alert(self, warning: effects.Warn) -> swarm.Alert:
        return swarm.Alert(
            severity=warning.severity,
            at=self._clock(),
            message=warning.message,
            run_id=self.run_id,
            stage=warning.stage,
        )

    def _errand(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._errands.add(task)
        task.add_done_callback(self._errand_done)

    def _errand_done(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("errand.failed", run=self.run_id, error=str(task.exception()))

    async def _let_go(self) -> None:
        """Drop what still runs here: after an end nothing does, after a loss nothing may.

        It is not stopped: a worker that is ours alone is killed, but on a shared cluster it goes on
        with its attempt, and a specialist with its training: the run's next owner attaches to it.
        """
        for name in list(self._timers):
            self._clear_timer(name)
        await tasks.end(*self._attempts.values())
        await self.scribe.flush()
        if self._done.cancelled():  # we stop: neither the run nor a defect of ours is to blame
            await self.scribe.release()

    def _log(self, fact: events.AnyEvent) -> None:
        kind = str(fact.__struct_config__.tag)
        self._told.info(kind, stage=fact.scope, cause=fact.cause)


class _Watcher:
    """Passes on what one attempt tells while it runs."""

    def __init__(self, conductor: Conductor, work: effects.Work) -> None:
        self._conductor = conductor
        self._key = work.key
        self._limited = work.deadline is not None

    def began(self) -> None:
        if self._limited:
            self._conductor.feed(stimuli.WorkBegan(self._key), cause=_place(self._key))

    def progress(self, fraction: float | None, message: str, metrics: Mapping[str, float]) -> None:
        told = events.Progress(
            run_id=self._key.run_id,
            stage=self._key.stage,
            element=self._key.element,
            at=self._conductor._clock(),  # noqa: SLF001 - the conductor's own half
            fraction=fraction,
            message=message,
            metrics=dict(metrics),
        )
        self._conductor._errand(self._conductor._announcer.progress(told))  # noqa: SLF001 - the same

    def note(self, fact: str, details: Mapping[str, Any]) -> None:
        size = len(msgspec.json.encode(details))
        if size > MAX_NOTE_BYTES:
            log.warning("note.too_large", run=self._key.run_id, fact=fact, bytes=size)
            return
        noted = stimuli.WorkNoted(self._key, fact, dict(details))
        self._conductor.feed(noted, cause=_place(self._key))


def _place(key: effects.WorkKey) -> str:
    element = "" if key.element is None else f"[{key.element}]"
    return f"stages/{key.stage}{element}/attempts/{key.attempt}"
