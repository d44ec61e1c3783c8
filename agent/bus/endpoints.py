"""Owns the request/reply endpoints: a service of the NATS services framework, errors included."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import nats.errors
import nats.micro
import structlog
from nats.aio.client import Client
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from protocol import codec, problems, subjects

log = structlog.get_logger()

DESCRIPTION = "Runs machine-learning pipelines: durable, resumable, cached, observable."
_STATUS = {
    "not_found": 404,
    "conflict": 409,
    "payload_too_large": 413,
    "overloaded": 429,
    "not_authorized": 403,
    "not_allowed": 403,
    "unavailable": 503,
    "timeout": 504,
    "internal": 500,
}
_BAD_REQUEST = 400
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_CONTENT_TYPE = 100


class Refusal(Exception):
    """A command is refused; the problem is the reply."""

    def __init__(self, problem: problems.Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Caller(msgspec.Struct, frozen=True):
    """What a request's headers say of its sender."""

    traceparent: str | None = None
    content_type: str | None = None


Handler = Callable[[Any, Caller], Awaitable[msgspec.Struct]]


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint: where it listens, what it takes, what it gives, who does it."""

    name: str
    subject: str
    takes: type[msgspec.Struct]
    gives: type[msgspec.Struct]
    handler: Handler


def caller(headers: Mapping[str, str] | None) -> Caller:
    """Read the headers of a request; a trace context that is none is ignored."""
    given = headers or {}
    trace = given.get("traceparent", "")
    content_type = given.get(subjects.CONTENT_TYPE)
    return Caller(
        trace if _TRACEPARENT.fullmatch(trace) else None,
        content_type[:_MAX_CONTENT_TYPE] if content_type else None,
    )


class Door:
    """Serves endpoints. No message stops it; no error leaves without a Problem."""

    def __init__(self, nc: Client, version: str, *, max_bytes: int) -> None:
        self._nc = nc
        self._version = version
        self._max_bytes = max_bytes
        self._service: Service | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def open(self, served: Sequence[Endpoint]) -> None:
        """Register the service and its endpoints; return once the server knows of them."""
        config = ServiceConfig(
            name=subjects.SERVICE,
            version=self._version,
            description=DESCRIPTION,
            queue_group=subjects.SERVICE,
        )
        self._service = await nats.micro.add_service(self._nc, config)
        for endpoint in served:
            await self._service.add_endpoint(
                EndpointConfig(
                    name=endpoint.name,
                    subject=endpoint.subject,
                    handler=self._handler(endpoint),
                    metadata={
                        "request_schema": endpoint.takes.__name__,
                        "reply_schema": endpoint.gives.__name__,
                    },
                )
            )

        await self._nc.flush()

    async def close(self) -> None:
        """Take no more requests; finish those at hand."""
        if self._service is not None:
            with contextlib.suppress(nats.errors.Error):  # the bus may be gone
                await self._service.stop()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _handler(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[None]]:
        async def handle(request: Request) -> None:
            # A slow command (a template looks at its data) must not hold up the quick ones.
            call = asyncio.create_task(self._answer(endpoint, request))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

        return handle

    async def _answer(self, endpoint: Endpoint, request: Request) -> None:
        sender = caller(request.headers)
        try:
            command = codec.decode(
                request.data, endpoint.takes, sender.content_type, max_bytes=self._max_bytes
            )
            reply = await endpoint.handler(command, sender)
            await request.respond(
                codec.encode(reply, sender.content_type), headers=_content(sender)
            )
        except codec.ProtocolError as error:
            await _refuse(request, problems.gather(error.problems), sender)
        except Refusal as refusal:
            await _refuse(request, refusal.problem, sender)
        except nats.errors.MaxPayloadError:
            message = "the reply is larger than a message on this bus may be"
            await _refuse(request, problems.Problem("payload_too_large", message), sender)
        except Exception:  # what broke is for the log, not for the caller
            log.exception("endpoint.broke", endpoint=endpoint.name)
            unknown = problems.Problem(
                code="internal", message="the agent could not do it", retryable=True
            )
            await _refuse(request, unknown, sender)


async def _refuse(request: Request, problem: problems.Problem, sender: Caller) -> None:
    try:
        body = codec.encode(problem, sender.content_type)
    except codec.ProtocolError:  # the content type itself was the problem
        body = codec.encode(problem)
    await request.respond_error(
        code=str(_STATUS.get(problem.code, _BAD_REQUEST)),
        description=problem.message[:500].replace("\n", " ").replace("\r", " "),
        data=body,
        headers=_content(sender),
    )


def _content(sender: Caller) -> dict[str, str]:
    return {subjects.CONTENT_TYPE: sender.content_type or codec.JSON}
