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

from agent.bus import journal
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
RETRY_AFTER_S = 5
"""What whoever asks is told when nothing more is taken for now."""
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
    signed_by: str | None = None
    """The name that we know the key by whose signature was verified."""
    key: str | None = None
    digest: str = ""
    """Of the command as it came."""


AWAY = (journal.Unavailable, nats.errors.Error, TimeoutError)
"""What is raised where the bus stores nothing, or does not answer."""
Read = Callable[[str, Any, type[Any], int], Awaitable[tuple[Any, Caller]]]
"""Reads a message for the named endpoint, of a kind, of so many bytes at most."""
Handler = Callable[[Any, Caller], Awaitable[msgspec.Struct]]


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint: where it listens, what it takes, what it gives, who does it."""

    name: str
    subject: str
    takes: type[msgspec.Struct]
    gives: type[msgspec.Struct]
    handler: Handler


def number(problem: problems.Problem) -> int:
    """Give the number that a problem has in a header, as in HTTP."""
    return _STATUS.get(problem.code, _BAD_REQUEST)


def refusal(problem: problems.Problem) -> dict[str, str]:
    """Give the headers that tell a refusal."""
    return {
        "Nats-Service-Error-Code": str(number(problem)),
        "Nats-Service-Error": said(problem),
        **_later(problem),
    }


def said(problem: problems.Problem) -> str:
    """Give a problem's message on the one line that a header has."""
    return problem.message[:500].replace("\n", " ").replace("\r", " ")


def problem_of(error: Exception) -> problems.Problem:
    """Say to whoever asked what kept us from doing it."""
    match error:
        case codec.ProtocolError():
            return problems.gather(error.problems)
        case Refusal():
            return error.problem
        case nats.errors.MaxPayloadError():
            message = "the reply is larger than a message on this bus may be"
            return problems.Problem("payload_too_large", message)
        case journal.Unavailable() | nats.errors.Error() | TimeoutError():
            message = f"the bus stores nothing at present: {error or type(error).__name__}"
            hint = "send the same again later: it is not done twice"
            return problems.Problem("unavailable", message, hint=hint, retryable=True)
    return problems.Problem("internal", "the agent could not do it", retryable=True)


def caller(headers: Mapping[str, str] | None) -> Caller:
    """Read the headers of a request; a trace context that is none is ignored."""
    given = headers or {}
    trace = given.get("traceparent", "")
    content_type = given.get(subjects.CONTENT_TYPE)
    return Caller(
        trace if _TRACEPARENT.fullmatch(trace) else None,
        content_type[:_MAX_CONTENT_TYPE] if content_type else None,
    )


async def read(_: str, message: Any, kind: type[Any], max_bytes: int) -> tuple[Any, Caller]:
    """Read a command and what its headers say; raise codec.ProtocolError."""
    sender = caller(message.headers)
    return codec.decode(message.data, kind, sender.content_type, max_bytes=max_bytes), sender


class Door:
    """Serves endpoints. No message stops it; no error leaves without a Problem."""

    def __init__(self, nc: Client, version: str, *, max_bytes: int, receive: Read = read) -> None:
        self._nc = nc
        self._receive = receive
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
            if not request._msg.reply:  # noqa: SLF001 - the framework has no other way to it
                log.info("request.without_reply", endpoint=endpoint.name)
                return
            # A slow command (a template looks at its data) must not hold up the quick ones.
            call = asyncio.create_task(self._answer(endpoint, request))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

        return handle

    async def _answer(self, endpoint: Endpoint, request: Request) -> None:
        sender = caller(request.headers)
        try:
            command, sender = await self._receive(
                endpoint.name, request, endpoint.takes, self._max_bytes
            )
            reply = await endpoint.handler(command, sender)
            await request.respond(
                codec.encode(reply, sender.content_type), headers=_content(sender)
            )
        except Exception as error:
            problem = problem_of(error)
            if problem.code in {"internal", "unavailable"}:
                log.warning("endpoint.broke", endpoint=endpoint.name, exc_info=True)
            await _refuse(request, problem, sender)


async def _refuse(request: Request, problem: problems.Problem, sender: Caller) -> None:
    try:
        body = codec.encode(problem, sender.content_type)
    except codec.ProtocolError:  # the content type itself was the problem
        body, sender = codec.encode(problem), Caller()
    await request.respond_error(
        code=str(number(problem)),
        description=said(problem),
        data=body,
        headers=_content(sender) | _later(problem),
    )


def _later(problem: problems.Problem) -> dict[str, str]:
    """Say when to ask again, as HTTP does."""
    return {subjects.RETRY_AFTER: str(RETRY_AFTER_S)} if problem.code == "overloaded" else {}


def _content(sender: Caller) -> dict[str, str]:
    return {subjects.CONTENT_TYPE: sender.content_type or codec.JSON}
