"""Owns the fire-and-forget intake: requests that wait in a stream until an agent accepts them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from agent import tasks
from agent.bus import deadletter, endpoints
from protocol import codec, commands, problems, subjects

log = structlog.get_logger()

_PULL_S = 5.0
_AWAY_S = 0.5
_RETRY_S = 2.0
_MAX_TRIES = 10
_LEASE_S = 10.0
"""How long a request that is being accepted is kept from others without being renewed."""

Accept = Callable[[commands.PipelineRequest, endpoints.Caller], Awaitable[object]]


class Intake:
    """Takes requests off the intake stream, one at a time."""

    def __init__(
        self,
        nc: Client,
        names: subjects.Subjects,
        accept: Accept,
        dead: deadletter.DeadLetters,
        *,
        max_bytes: int,
        receive: endpoints.Read = endpoints.read,
        lease_s: float = _LEASE_S,
    ) -> None:
        self._receive = receive
        self._js = nc.jetstream()
        self._names = names
        self._accept = accept
        self._dead = dead
        self._max_bytes = max_bytes
        self._lease_s = lease_s

    async def serve(self) -> None:
        """Take requests until cancelled; a broker that is away is waited for."""
        pull = await self._bound()
        try:
            while True:
                await self._next(pull)
        finally:
            with contextlib.suppress(nats.errors.Error):
                await pull.unsubscribe()  # or a request would come that nobody takes any more

    async def _bound(self) -> JetStreamContext.PullSubscription:
        while True:
            try:
                return await self._bind()
            except endpoints.AWAY as error:
                log.warning("intake.waits", error=str(error) or type(error).__name__)
                await asyncio.sleep(_AWAY_S)

    async def _bind(self) -> JetStreamContext.PullSubscription:
        config = api.ConsumerConfig(
            durable_name=self._names.intake_consumer,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._lease_s,
        )
        await self._js.add_consumer(self._names.intake_stream, config)
        return await self._js.pull_subscribe_bind(
            self._names.intake_consumer, self._names.intake_stream
        )

    async def _next(self, pull: JetStreamContext.PullSubscription) -> None:
        try:
            messages = await pull.fetch(1, timeout=_PULL_S)
        except TimeoutError:
            return
        except nats.errors.Error:
            await asyncio.sleep(_AWAY_S)
            return
        for message in messages:
            await self._survive(message)

    async def _survive(self, message: Msg) -> None:
        """Take a message; one that can be neither taken nor put aside comes again later."""
        try:
            await self._take(message)
        except Exception:  # one message must not stop the intake
            log.exception("intake.broke")
            await asyncio.sleep(_AWAY_S)

    async def _take(self, message: Msg) -> None:
        if (tries := _tries(message)) > _MAX_TRIES:  # whoever took it did not live to say so
            text = f"it was taken {tries - 1} times and neither accepted nor refused"
            await self._dead.keep(message, problems.Problem("worker_lost", text))
            return
        try:
            request, caller = await self._receive(
                "queue", message, commands.PipelineRequest, self._max_bytes
            )
            async with self._kept(message):
                await self._accepted(request, caller)
        except (codec.ProtocolError, endpoints.Refusal) as refused:
            await self._refuse(message, refused.problem)
        except Exception:
            log.exception("request.broke")
            unknown = problems.Problem(
                code="internal", message="the agent could not accept it", retryable=True
            )
            await self._refuse(message, unknown)
        else:
            await message.ack()

    @contextlib.asynccontextmanager
    async def _kept(self, message: Msg) -> AsyncIterator[None]:
        """Keep a message from other agents while the context lasts: a design takes its time."""
        keeping = asyncio.create_task(self._keep(message), name="keep a request")
        try:
            yield
        finally:
            await tasks.end(keeping)

    async def _keep(self, message: Msg) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            with contextlib.suppress(nats.errors.Error):
                await message.in_progress()

    async def _accepted(self, request: commands.PipelineRequest, caller: endpoints.Caller) -> None:
        """Have it accepted, however long the bus stores nothing: that is no request's fault."""
        while True:
            try:
                await self._accept(request, caller)
            except endpoints.AWAY as error:
                log.warning("request.waits", error=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _refuse(self, message: Msg, problem: problems.Problem) -> None:
        tries = _tries(message)
        if problem.retryable and tries < _MAX_TRIES:
            await message.nak(delay=_RETRY_S * tries)
        else:
            await self._dead.keep(message, problem)


def _tries(message: Msg) -> int:
    return int(message.metadata.num_delivered or 1)
