"""Owns the course of one training: prepare, judge candidates, fit; the work is done on Ray."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Callable
from typing import Any

from agent.specialist import checkpoints, faults, search, trials, workers
from protocol import training
from stages.frameworks import base

Tell = Callable[[float | None, str, training.Trial | None, dict[str, float]], None]


class Trainer:
    """Carries out one request; `tell` hears of every step and of every finished trial."""

    def __init__(
        self,
        request: training.TrainingRequest,
        folder: pathlib.Path,
        place: trials.Place,
        tell: Tell,
    ) -> None:
        self._request = request
        self._folder = folder
        self._place = place
        self._tell = tell
        self._workers = workers.Workers(request.cpu, request.gpu)
        self._checkpoints = checkpoints.Checkpoints(folder)

    async def train(self) -> training.TrainingResult:
        """Train within the deadline; whatever happens, nothing runs on afterwards."""
        started = time.monotonic()
        limit = self._request.deadline_s
        try:
            async with asyncio.timeout(limit):
                return await self._train(started)
        except TimeoutError:
            raise faults.DeadlineExceeded(limit or 0.0) from None
        finally:
            await self._workers.stop()

    async def stop(self) -> bool:
        """Kill what runs; tell whether it is known to have ended."""
        return await self._workers.stop()

    async def forget(self) -> None:
        """Drop what lets the training go on: its result is kept."""
        await self._checkpoints.clear()

    async def _train(self, started: float) -> training.TrainingResult:
        search.check(self._request.search)
        self._tell(None, "reading and checking the data", None, {})
        setup, table = await self._workers.call(
            trials.prepare, self._request, self._place, returns=2
        )
        path = self._folder / "study.db"
        plan = await asyncio.to_thread(search.Search, path, self._request)
        try:
            return await self._searched(plan, setup, table, started)
        finally:
            await asyncio.to_thread(plan.close)

    async def _searched(
        self, plan: search.Search, setup: base.Setup, table: Any, started: float
    ) -> training.TrainingResult:
        while batch := await asyncio.to_thread(plan.next_batch):
            floor = await asyncio.to_thread(plan.floor, batch)
            await self._try_batch(plan, setup, table, batch, floor)
        finished = await asyncio.to_thread(plan.finished)
        best = await asyncio.to_thread(plan.best)
        if best is None:
            raise faults.AllTrialsFailed(finished[0][1].error if finished else "none was tried")
        candidate, verdict = best
        self._tell(0.95, "fitting the best candidate", None, verdict.metrics)
        checkpoint = await self._checkpoints.get(candidate.number)
        chosen = trials.Chosen(candidate.params, verdict.metrics, checkpoint)
        model = await self._workers.call(
            trials.fit, self._request, setup, table, chosen, self._place
        )
        return training.TrainingResult(
            training_id=self._request.training_id,
            model=model,
            metrics=verdict.metrics,
            params=self._request.params | candidate.params,
            trials=[summary(c, v) for c, v in finished],
            duration_s=time.monotonic() - started,
            epoch=self._request.epoch,
        )

    async def _try_batch(
        self,
        plan: search.Search,
        setup: base.Setup,
        table: Any,
        batch: list[search.Candidate],
        floor: float | None,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for candidate in batch:
                    group.create_task(self._try(plan, setup, table, candidate, floor))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _try(
        self,
        plan: search.Search,
        setup: base.Setup,
        table: Any,
        candidate: search.Candidate,
        floor: float | None,
    ) -> None:
        verdict = await self._judged(plan, setup, table, candidate, floor)
        await asyncio.to_thread(plan.tell, candidate, verdict)
        trial = summary(candidate, verdict)
        message = f"trial {candidate.number + 1} of {plan.total}: {trial.state}"
        self._tell(_fraction(plan, candidate, 1.0), message, trial, verdict.metrics)

    async def _judged(
        self,
        plan: search.Search,
        setup: base.Setup,
        table: Any,
        candidate: search.Candidate,
        floor: float | None,
    ) -> base.Verdict:
        """Have a candidate judged, from its last checkpoint on; what it tells is told on."""
        verdicts: list[base.Verdict] = []

        async def args() -> tuple[Any, ...]:
            checkpoint = await self._checkpoints.get(candidate.number)
            return setup, table, candidate.params, floor, checkpoint

        async def hear(told: base.Step | base.Verdict) -> None:
            if isinstance(told, base.Verdict):
                verdicts.append(told)
                return
            if told.checkpoint is not None:
                await self._checkpoints.put(candidate.number, told.checkpoint)
            message = f"trial {candidate.number + 1} of {plan.total}: {told.message}"
            self._tell(_fraction(plan, candidate, told.fraction), message, None, told.metrics)

        await self._workers.follow(trials.score, args, hear)
        return verdicts[-1]


def _fraction(plan: search.Search, candidate: search.Candidate, part: float) -> float:
    return 0.95 * (candidate.number + part) / plan.total


def summary(candidate: search.Candidate, verdict: base.Verdict) -> training.Trial:
    """Give a finished candidate as it is reported."""
    return training.Trial(
        number=candidate.number,
        params=candidate.params,
        state=verdict.state,
        score=verdict.mean if verdict.scores else None,
        std=verdict.std if verdict.scores else None,
        duration_s=verdict.duration_s,
    )
