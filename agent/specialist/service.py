"""Owns the specialist's side of the training contract on the bus, and nothing else."""

from __future__ import annotations

import asyncio
import pathlib
import re
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from agent.artifacts import objects
from agent.specialist import faults, jobs, results, trials
from protocol import problems, subjects, training
from stages import kit
from stages.frameworks import adapters

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

log = structlog.get_logger(__name__)

QUEUE = "ml-training-specialist"
HEARTBEAT_S = 2.0
"""Well under the 5 s that the contract allows."""
MSGPACK = "application/msgpack"
_ID = re.compile(rb'training_id"?\W{0,4}([A-Za-z0-9_-]{1,64})')


class Specialist:
    """Takes trainings, runs them side by side, answers for those it has done."""

    def __init__(
        self,
        nats: Client,
        names: subjects.Subjects,
        data: pathlib.Path,
        *,
        name: str,
        bus: objects.Access | None = None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._nats = nats
        self._names = names
        self._kept = results.Results(data / "trainings")
        self._place = trials.Place(str(data / "artifact-copies"), bus)
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._jobs: dict[str, jobs.Job] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Any] = []

    async def start(self) -> None:
        """Listen. A cancellation goes to every specialist, since any may have the training."""
        self._subscriptions = [
            await self._nats.subscribe(
                self._names.training_request, queue=QUEUE, cb=self._on_request
            ),
            await self._nats.subscribe(self._names.training_cancel, cb=self._on_cancel),
        ]
        await self._nats.flush()

    async def close(self) -> None:
        """Take no more, and stop what runs; an interrupted search goes on when it is asked for."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        await asyncio.gather(*(job.cancel(jobs.LEAVING) for job in list(self._jobs.values())))

    async def _on_request(self, message: Msg) -> None:
        try:
            request = _decoded(message, training.TrainingRequest)
            listener = jobs.Listener(message.reply, request.epoch, _content_type(message))
            await self._take(request, listener)
        except msgspec.DecodeError as error:
            await self._refuse(message, _malformed(error))
        except faults.TrainingFault as fault:
            await self._refuse(message, fault.problem())

    async def _take(self, request: training.TrainingRequest, listener: jobs.Listener) -> None:
        _check_framework(request)
        self._kept.claim(request)
        done = self._kept.get(request.training_id)
        job = self._jobs.get(request.training_id)
        accepted = training.TrainingAccepted(
            request.training_id, self._name, attached=bool(done or job)
        )
        await self._send(listener, accepted)
        if job is not None:
            job.attach(listener)
        elif done is not None:
            await self._send(listener, jobs.stamped(done, listener.epoch))
        else:
            self._begin(request, listener)

    def _begin(self, request: training.TrainingRequest, listener: jobs.Listener) -> None:
        job = jobs.Job(request, self._kept, self._place, self._send, self._heartbeat_s)
        job.attach(listener)
        self._jobs[request.training_id] = job
        job.start(done=self._forget)
        log.info("training.accepted", training=request.training_id, model=request.model)

    def _forget(self, job: jobs.Job) -> None:
        del self._jobs[job.request.training_id]

    async def _on_cancel(self, message: Msg) -> None:
        """Answer in a task of its own: stopping takes a while, and more may be asked."""
        task = asyncio.create_task(self._cancel(message), name="cancel")
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _cancel(self, message: Msg) -> None:
        try:
            asked = _decoded(message, training.TrainingCancel)
        except msgspec.DecodeError as error:
            log.warning("training.cancel_refused", reason=str(error))
            return
        listener = jobs.Listener(message.reply, 0, _content_type(message))
        await self._send(listener, await self._stopped(asked.training_id))

    async def _stopped(self, training_id: str) -> training.TrainingStatus:
        job = self._jobs.get(training_id)
        if job is not None:
            await job.cancel()
            log.info("training.cancelled", training=training_id, stopped=job.stopped)
            return training.TrainingStatus(training_id, job.state, stopped=job.stopped)
        if self._kept.get(training_id) is not None:
            return training.TrainingStatus(training_id, "succeeded", stopped=True)
        return training.TrainingStatus(training_id, "unknown", stopped=True)

    async def _refuse(self, message: Msg, problem: problems.Problem) -> None:
        log.warning("training.refused", code=problem.code, reason=problem.message)
        found = _ID.search(message.data)
        training_id = found.group(1).decode() if found else ""
        listener = jobs.Listener(message.reply, 0, _content_type(message))
        await self._send(listener, training.TrainingFailed(training_id, problem))

    async def _send(
        self, listener: jobs.Listener, reply: training.TrainingReply | training.TrainingStatus
    ) -> None:
        if not listener.subject:
            return
        packed = listener.content_type == MSGPACK
        data = msgspec.msgpack.encode(reply) if packed else msgspec.json.encode(reply)
        headers = {"Content-Type": listener.content_type}
        await self._nats.publish(listener.subject, data, headers=headers)


def _content_type(message: Msg) -> str:
    return str((message.headers or {}).get("Content-Type", "application/json"))


def _decoded(message: Msg, kind: type[Any]) -> Any:
    if _content_type(message) == MSGPACK:
        return msgspec.msgpack.decode(message.data, type=kind)
    return msgspec.json.decode(message.data, type=kind)


def _malformed(error: msgspec.DecodeError) -> problems.Problem:
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return problems.Problem(code="invalid_json", message=text)
    path = re.search(r"at `(.+)`$", text)
    code: problems.Code = "unknown_field" if "unknown field" in text else "invalid_field"
    return problems.Problem(code=code, message=text, path=path.group(1) if path else "$")


def _check_framework(request: training.TrainingRequest) -> None:
    try:
        adapters.named(request.framework)
    except kit.StageFault as fault:
        raise faults.Refused(fault) from fault
