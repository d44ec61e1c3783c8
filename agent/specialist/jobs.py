"""Owns one running training: who listens to it, its heartbeat, its end."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
import structlog

from agent.specialist import faults, results, trainer, trials
from protocol import problems, training

log = structlog.get_logger(__name__)


class Listener(msgspec.Struct, frozen=True):
    """Where replies go, for which epoch, and in which encoding."""

    subject: str
    epoch: int
    content_type: str


CANCELLED = problems.Problem(code="cancelled", message="the training was cancelled")
LEAVING = problems.Problem(
    code="preempted",
    message="the specialist is stopping",
    hint="ask again: another takes the training, or this one goes on with it once it is back",
    retryable=True,
)

Send = Callable[[Listener, training.TrainingReply], Awaitable[None]]


class Job:
    """A training at work. Whoever asks for it again is told of it too."""

    def __init__(
        self,
        request: training.TrainingRequest,
        kept: results.Results,
        place: trials.Place,
        send: Send,
        heartbeat_s: float,
    ) -> None:
        self.request = request
        self._kept = kept
        self._send = send
        self._heartbeat_s = heartbeat_s
        self._listeners: dict[str, Listener] = {}
        self._latest = (0.0, "accepted")
        self._outbox: asyncio.Queue[training.TrainingProgress] = asyncio.Queue()
        folder = kept.folder(request.training_id)
        self._trainer = trainer.Trainer(request, folder, place, self._tell)
        self._task: asyncio.Task[None] | None = None
        self._why = CANCELLED
        self.state: Literal["running", "succeeded", "failed", "cancelled"] = "running"
        self.stopped = False
        """Nothing of it is running any more, as far as can be proved."""

    def attach(self, listener: Listener) -> None:
        """Tell one more."""
        if listener.subject:
            self._listeners[listener.subject] = listener

    def start(self, done: Callable[[Job], None]) -> None:
        """Begin; `done` is called at the end, whatever it is."""
        self._task = asyncio.create_task(self._run(), name=f"train {self.request.training_id}")
        self._task.add_done_callback(lambda _: done(self))

    async def cancel(self, why: problems.Problem = CANCELLED) -> None:
        """Stop it and wait until it has ended; its listeners are told why."""
        self._why = why
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        beat = asyncio.create_task(self._beat(), name="heartbeat")
        try:
            reply = await self._outcome()
        finally:
            beat.cancel()
            self.stopped = await self._trainer.stop()
        await self._tell_all(reply)

    async def _outcome(self) -> training.TrainingReply:
        try:
            result = await self._trainer.train()
            self._kept.put(result)
            await self._trainer.forget()
        except asyncio.CancelledError:
            self.state = "cancelled"
            return self._failed(self._why)
        except faults.TrainingFault as fault:
            self.state = "failed"
            log.info("training.failed", training=self.request.training_id, reason=str(fault))
            return self._failed(fault.problem())
        except OSError as error:  # as a full disk: another specialist, or a later try, may manage
            self.state = "failed"
            log.warning("training.not_kept", training=self.request.training_id, error=str(error))
            message = f"the specialist could not store what it made: {error}"
            return self._failed(problems.Problem("unavailable", message, retryable=True))
        except Exception as error:
            self.state = "failed"
            log.exception("training.failed", training=self.request.training_id)
            message = f"{type(error).__name__}: {error}"
            return self._failed(problems.Problem(code="internal", message=message))
        self.state = "succeeded"
        log.info("training.succeeded", training=self.request.training_id, metrics=result.metrics)
        return result

    def _failed(self, problem: problems.Problem) -> training.TrainingFailed:
        return training.TrainingFailed(self.request.training_id, problem)

    def _tell(
        self,
        fraction: float | None,
        message: str,
        trial: training.Trial | None,
        metrics: dict[str, float],
    ) -> None:
        self._latest = (max(fraction or 0.0, self._latest[0]), message)
        self._outbox.put_nowait(self._progress(trial, metrics))

    def _progress(
        self, trial: training.Trial | None = None, metrics: dict[str, float] | None = None
    ) -> training.TrainingProgress:
        fraction, message = self._latest
        return training.TrainingProgress(
            training_id=self.request.training_id,
            at=dt.datetime.now(dt.UTC),
            fraction=fraction,
            message=message,
            trial=trial,
            metrics=metrics or {},
        )

    async def _beat(self) -> None:
        """Tell every step at once, and a sign of life when there is none."""
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    progress = await self._outbox.get()
            except TimeoutError:
                progress = self._progress()
            await self._tell_all(progress)

    async def _tell_all(self, reply: training.TrainingReply) -> None:
        while isinstance(reply, training.TrainingResult) and not self._outbox.empty():
            await self._tell_all(self._outbox.get_nowait())
        for listener in list(self._listeners.values()):
            await self._send(listener, stamped(reply, listener.epoch))


def stamped(reply: training.TrainingReply, epoch: int) -> training.TrainingReply:
    """Give a result the epoch of the one who reads it."""
    if isinstance(reply, training.TrainingResult):
        return msgspec.structs.replace(reply, epoch=epoch)
    return reply
