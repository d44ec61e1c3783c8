"""Owns the course of one training: prepare, search, fit; the work itself is done on Ray."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Callable
from typing import Any

from agent.specialist import faults, search, trials, workers
from protocol import training

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
        self._workers = workers.Workers(request.cpu)

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
        self, plan: search.Search, setup: trials.Setup, table: Any, started: float
    ) -> training.TrainingResult:
        while batch := await asyncio.to_thread(plan.next_batch):
            floor = await asyncio.to_thread(plan.floor, batch)
            await self._try_batch(plan, setup, table, batch, floor)
        finished = await asyncio.to_thread(plan.finished)
        best = await asyncio.to_thread(plan.best)
        if best is None:
            raise faults.AllTrialsFailed(finished[0][1].error if finished else "none was tried")
        candidate, verdict = best
        self._tell(0.95, "fitting the best candidate on all rows", None, verdict.metrics)
        model = await self._workers.call(
            trials.fit, setup, table, candidate.params, verdict.metrics, self._place
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
        setup: trials.Setup,
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
        setup: trials.Setup,
        table: Any,
        candidate: search.Candidate,
        floor: float | None,
    ) -> None:
        verdict = await self._workers.call(trials.score, setup, table, candidate.params, floor)
        await asyncio.to_thread(plan.tell, candidate, verdict)
        trial = summary(candidate, verdict)
        fraction = 0.95 * (candidate.number + 1) / plan.total
        message = f"trial {candidate.number + 1} of {plan.total}: {trial.state}"
        self._tell(fraction, message, trial, verdict.metrics)


def summary(candidate: search.Candidate, verdict: trials.Verdict) -> training.Trial:
    """Give a finished candidate as it is reported."""
    return training.Trial(
        number=candidate.number,
        params=candidate.params,
        state=verdict.state,
        score=verdict.mean if verdict.scores else None,
        std=verdict.std if verdict.scores else None,
        duration_s=verdict.duration_s,
    )
