"""Owns the fire-and-forget intake: requests that wait in a stream until an agent accepts them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api

from agent.bus import deadletter, endpoints
from protocol import codec, commands, problems, subjects

log = structlog.get_logger()

_PULL_S = 5.0
_AWAY_S = 0.5
_RETRY_S = 2.0
_MAX_TRIES = 10

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
    ) -> None:
        self._js = nc.jetstream()
        self._names = names
        self._accept = accept
        self._dead = dead
        self._max_bytes = max_bytes

    async def serve(self) -> None:
        """Take requests until cancelled."""
        config = api.ConsumerConfig(
            durable_name=self._names.intake_consumer,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=30,
        )
        await self._js.add_consumer(self._names.intake_stream, config)
        pull = await self._js.pull_subscribe_bind(
            self._names.intake_consumer, self._names.intake_stream
        )
        while True:
            try:
                messages = await pull.fetch(1, timeout=_PULL_S)
            except TimeoutError:
                continue
            except nats.errors.Error:
                await asyncio.sleep(_AWAY_S)
                continue
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
        try:
            request = codec.decode(
                message.data,
                commands.PipelineRequest,
                (message.headers or {}).get(subjects.CONTENT_TYPE),
                max_bytes=self._max_bytes,
            )
            await self._accept(request, endpoints.caller(message.headers))
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

    async def _refuse(self, message: Msg, problem: problems.Problem) -> None:
        tries = message.metadata.num_delivered or 1
        if problem.retryable and tries < _MAX_TRIES:
            await message.nak(delay=_RETRY_S * tries)
        else:
            await self._dead.keep(message, problem)
