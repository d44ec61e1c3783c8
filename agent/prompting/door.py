"""Owns the micro service `agents`: prompts in, streams out, heartbeats, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
import nats.micro
import structlog
from nats.aio.client import Client
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from agent import tasks
from agent.bus import endpoints
from agent.conductor import scribe
from agent.prompting import convention, streams
from protocol import codec, problems

log = structlog.get_logger()

MOST_PROMPTS = 256
"""How many streams one agent serves at a time."""
LONGEST_S = 86_400.0
"""After a day a stream ends, heard or not: what a caller forgot must not be kept for ever."""
CLOSE_S = 5.0
STOPPING = "this agent stops, and its runs go on: say `follow RUN` to another, or later"
LONG_ENOUGH = "this stream is a day old and ends here: say `follow RUN`"

Identify = Callable[[Any, endpoints.Caller], Awaitable[endpoints.Caller]]
"""Says who signed a message; raises endpoints.Refusal."""
Answer = Callable[[convention.Envelope, endpoints.Caller, streams.Stream], Awaitable[None]]


class Door:
    """Serves prompts, each in a task of its own. No prompt stops it; every stream is ended."""

    def __init__(
        self,
        nc: Client,
        place: convention.Place,
        answer: Answer,
        *,
        identify: Identify,
        version: str,
        clock: scribe.Clock,
        max_bytes: int,
        keep_alive_s: float = streams.KEEP_ALIVE_S,
        most_prompts: int = MOST_PROMPTS,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._nc = nc
        self._place = place
        self._answer = answer
        self._identify = identify
        self._version = version
        self._clock = clock
        self._max_bytes = min(max_bytes, nc.max_payload)
        self._keep_alive_s = keep_alive_s
        self._most_prompts = most_prompts
        self._longest_s = longest_s
        self._service: Service | None = None
        self._beating: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def at_work(self) -> int:
        """Give the number of prompts that are being answered."""
        return len(self._calls)

    async def open(self) -> None:
        """Register the service; return once the server knows of it."""
        place = self._place
        config = ServiceConfig(
            name=convention.SERVICE,
            version=self._version,
            description=f"{endpoints.DESCRIPTION} Prompt it with `help`.",
            metadata={
                "agent": place.agent,
                "owner": place.owner,
                "session": place.session,
                "protocol_version": convention.VERSION,
            },
            queue_group=convention.SERVICE,
        )
        self._service = await nats.micro.add_service(self._nc, config)
        takes = {"max_payload": f"{self._max_bytes}B", "attachments_ok": "true"}
        await self._endpoint("prompt", self._take, takes)
        await self._endpoint("status", self._tell_status)
        await self._nc.flush()
        self._beating = asyncio.create_task(self._beat(self._service.id), name="heartbeats")

    async def close(self) -> None:
        """Take no more prompts, and end every stream."""
        if self._service is not None:
            with contextlib.suppress(nats.errors.Error):  # the bus may be gone
                await self._service.stop()
        beating = [self._beating] if self._beating is not None else []
        await tasks.end(*beating, *self._calls, again_s=CLOSE_S)

    async def _endpoint(
        self,
        name: str,
        handler: Callable[[Request], Awaitable[None]],
        metadata: dict[str, str] | None = None,
    ) -> None:
        subject = self._place.subject(name)
        assert self._service is not None
        await self._service.add_endpoint(
            EndpointConfig(name=name, subject=subject, handler=handler, metadata=metadata)
        )

    async def _beat(self, instance: str) -> None:
        while True:
            with contextlib.suppress(nats.errors.Error):  # the bus is away: the next one tells
                await self._nc.publish(self._place.subject("hb"), self._heartbeat(instance))
            await asyncio.sleep(convention.HEARTBEAT_S)

    def _heartbeat(self, instance: str) -> bytes:
        return convention.heartbeat(self._place, instance, self._clock())

    async def _tell_status(self, request: Request) -> None:
        assert self._service is not None
        await request.respond(self._heartbeat(self._service.id))

    async def _take(self, request: Request) -> None:
        reply = request._msg.reply  # noqa: SLF001 - the framework has no other way to it
        if not reply:
            log.info("prompt.without_reply", subject=request.subject)
            return
        stream = streams.Stream(self._nc, reply, self._keep_alive_s)
        call = asyncio.create_task(self._serve(request, stream), name="prompt")
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _serve(self, request: Request, stream: streams.Stream) -> None:
        """Answer a prompt while somebody hears it, and end its stream whatever happens."""
        answering = asyncio.create_task(self._answered(request, stream), name="answer")
        listening = asyncio.create_task(stream.wait_gone(), name="keep-alive")
        both = (answering, listening)
        farewell = ""
        try:
            done, _ = await asyncio.wait(
                both, timeout=self._longest_s, return_when=asyncio.FIRST_COMPLETED
            )
            farewell = "" if done else LONG_ENOUGH
        except asyncio.CancelledError:
            farewell = STOPPING
            raise
        finally:
            await tasks.end(*both)
            await stream.end(farewell)

    async def _answered(self, request: Request, stream: streams.Stream) -> None:
        try:
            asked = self._accepted(request)
            caller = await self._identify(request, endpoints.caller(request.headers))
            await stream.acknowledge()
            await self._answer(asked, caller, stream)
        except codec.ProtocolError as error:
            await stream.refuse(problems.gather(error.problems))
        except endpoints.Refusal as refusal:
            await stream.refuse(refusal.problem)
        except Exception:  # what broke is for the log, not for the caller
            log.exception("prompt.broke")
            unknown = problems.Problem("internal", "the agent could not do it", retryable=True)
            await stream.refuse(unknown)

    def _accepted(self, request: Request) -> convention.Envelope:
        if len(self._calls) > self._most_prompts:
            message = f"{self._most_prompts} prompts are being answered"
            busy = problems.Problem("overloaded", message, hint="ask again later", retryable=True)
            raise endpoints.Refusal(busy)
        return convention.read(request.data, self._max_bytes)
