"""Owns the delegation of training: the executor that lets an ML-Training-Specialist do the work."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import structlog
import tenacity

from agent import config, tasks
from agent.artifacts import store
from agent.execution import base
from agent.run import effects
from agent.training import conversation, fallbacks, requests
from protocol import problems, subjects, training
from stages.training import model

if TYPE_CHECKING:
    from nats.aio.client import Client

log = structlog.get_logger(__name__)

ATTEMPTS = 3
BACKOFF_S = 0.5
CANCEL_PATIENCE_S = 5.0
FORCED_PATIENCE_S = 2.0

Severity = Literal["info", "warning", "critical"]
Warn = Callable[[Severity, str, effects.Work], None]


class _Attempt:
    """One attempt while it runs."""

    def __init__(self, talk: conversation.Conversation, training_id: str) -> None:
        self.talk = talk
        self.training_id = training_id
        self.halted: asyncio.Future[base.Halted] = asyncio.get_running_loop().create_future()
        self.stopping = False

    def halt(self, how: str, where: str) -> None:
        """Let `run` end with this proof, unless it has one."""
        if not self.halted.done():
            self.halted.set_result(base.Halted(how, where))


class SpecialistExecutor:
    """Runs stages whose placement is `training`: asks, watches, asks again, falls back."""

    def __init__(
        self,
        nats: Client,
        names: subjects.Subjects,
        kept: store.Store,
        settings: config.Specialist,
        *,
        artifacts_uri: str,
        tracking_uri: str = "",
        warn: Warn = lambda _severity, _message, _work: None,
    ) -> None:
        self._nats = nats
        self._names = names
        self._store = kept
        self._settings = settings
        self._artifacts_uri = artifacts_uri
        self._tracking_uri = tracking_uri
        self._warn = warn
        self._attempts: dict[effects.WorkKey, _Attempt] = {}
        self._stops: set[asyncio.Task[None]] = set()

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Have the model trained; a failure is an outcome."""
        started = time.monotonic()
        request = requests.build(work, self._artifacts_uri, dt.datetime.now(dt.UTC))
        hear = _Hearing(watcher)
        talk = conversation.Conversation(
            self._nats,
            self._names,
            request,
            self._settings,
            hear,
            traceparent=work.traceparent,
        )
        attempt = _Attempt(talk, request.training_id)
        self._attempts[work.key] = attempt
        await talk.open()
        watcher.began()
        try:
            return await self._first_of(attempt, self._trained(work, talk, watcher, started))
        finally:
            del self._attempts[work.key]
            await talk.close()

    async def _first_of(self, attempt: _Attempt, trained: Any) -> base.Outcome:
        """End with the training, or with the proof that it was stopped."""
        task = asyncio.ensure_future(trained)
        try:
            await asyncio.wait({task, attempt.halted}, return_when=asyncio.FIRST_COMPLETED)
            if attempt.stopping and not isinstance(_result(task), base.Succeeded):
                return await attempt.halted
            return await task
        finally:
            await tasks.end(task)

    async def _trained(
        self,
        work: effects.Work,
        talk: conversation.Conversation,
        watcher: base.Watcher,
        started: float,
    ) -> base.Outcome:
        try:
            result = await self._asked(talk, work)
        except conversation.TrainingError as error:
            return await self._without_model(work, error.problem, watcher, started)
        return await self._succeeded(work, result, started)

    async def _asked(
        self, talk: conversation.Conversation, work: effects.Work
    ) -> training.TrainingResult:
        """Ask until there is an answer that asking again would not change."""
        async for turn in tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential_jitter(multiplier=BACKOFF_S, max=10.0, jitter=BACKOFF_S),
            retry=tenacity.retry_if_exception(_worth_another_try),
            before_sleep=lambda state: log.warning(
                "training.asked_again",
                run=work.key.run_id,
                stage=work.key.stage,
                turn=state.attempt_number,
                reason=str(state.outcome.exception() if state.outcome else ""),
            ),
            reraise=True,
        ):
            with turn:
                return await talk.ask()
        raise AssertionError  # pragma: no cover - AsyncRetrying returns or raises

    async def _succeeded(
        self, work: effects.Work, result: training.TrainingResult, started: float
    ) -> base.Succeeded:
        trials = msgspec.to_builtins(result.trials)
        metrics, report = model.results(result.metrics, result.params, trials)
        outputs = {
            "model": result.model,
            "metrics": await asyncio.to_thread(self._store.put, metrics),
            "report": await asyncio.to_thread(self._store.put, report),
        }
        log.info("training.delegated_done", run=work.key.run_id, stage=work.key.stage)
        return base.Succeeded(outputs, result.metrics, time.monotonic() - started)

    async def _without_model(
        self,
        work: effects.Work,
        problem: problems.Problem,
        watcher: base.Watcher,
        started: float,
    ) -> base.Outcome:
        fallback = requests.stage_of(work).fallback
        if not problem.retryable or fallback == "fail":
            self._warn("critical", f"training failed: {problem.message}", work)
            return base.Failed(problem)
        try:
            name, outputs = await asyncio.to_thread(
                fallbacks.stand_in, work, fallback, self._store, self._tracking_uri
            )
        except Exception as error:  # noqa: BLE001 - whatever stops the fallback, the first problem counts
            message = f"training failed: {problem.message}; so did its fallback: {error}"
            self._warn("critical", message, work)
            return base.Failed(problem)
        self._warn("warning", f"{name} stands in for a training: {problem.message}", work)
        watcher.note("fallback_used", {"fallback": name, "problem": msgspec.to_builtins(problem)})
        return base.Succeeded(outputs, {}, time.monotonic() - started)

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Ask the specialist to stop, and let `run` end once it has proved that it did.

        With `force`, `run` ends shortly in any case and says what is known.
        """
        attempt = self._attempts.get(key)
        if attempt is None:
            return
        attempt.stopping = True
        task = asyncio.create_task(self._stop(attempt, force=force), name="stop training")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def _stop(self, attempt: _Attempt, *, force: bool) -> None:
        patience = FORCED_PATIENCE_S if force else CANCEL_PATIENCE_S
        while not attempt.halted.done():
            status = await conversation.wait_stopped(
                self._nats, self._names, attempt.training_id, "cancelled", patience
            )
            who = attempt.talk.specialist
            if status is not None:
                attempt.halt("asked" if who else "not_started", who or "no specialist has it")
            elif not who:
                attempt.halt("not_started", "no specialist took it")
            elif force:
                attempt.halt("forced", f"{who}: {_unproved(attempt.talk)}")
            else:
                await asyncio.sleep(BACKOFF_S)

    async def recall(self, work: effects.Work) -> None:
        """Have a training stopped that another agent asked for, if a specialist has it."""
        name = requests.training_id(work)
        await conversation.wait_stopped(
            self._nats, self._names, name, "cancelled", CANCEL_PATIENCE_S
        )

    async def close(self) -> None:
        """Stop waiting; the specialist goes on, and the next agent attaches to it."""
        await tasks.end(*self._stops)


class _Hearing:
    """Passes on what a specialist tells."""

    def __init__(self, watcher: base.Watcher) -> None:
        self._watcher = watcher

    def __call__(self, reply: training.TrainingAccepted | training.TrainingProgress) -> None:
        if isinstance(reply, training.TrainingAccepted):
            details = {"training_id": reply.training_id, "specialist": reply.specialist}
            self._watcher.note("delegated", details)
        else:
            metrics = dict(reply.metrics)
            if reply.trial is not None and reply.trial.score is not None:
                metrics |= {"trial": float(reply.trial.number), "score": reply.trial.score}
            self._watcher.progress(reply.fraction, reply.message, metrics)


def _worth_another_try(error: BaseException) -> bool:
    return isinstance(error, conversation.TrainingError) and error.problem.retryable


def _result(task: asyncio.Future[base.Outcome]) -> base.Outcome | None:
    """Give what a task returned, if it has."""
    return task.result() if task.done() and task.exception() is None else None


def _unproved(talk: conversation.Conversation) -> str:
    silent = talk.silent_s
    since = "never heard of" if silent is None else f"last heard of {silent:.1f} s ago"
    return f"it has not proved that it stopped; {since}"
