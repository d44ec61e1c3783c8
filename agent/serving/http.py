"""Owns the serving host's HTTP: predictions, what is deployed, health, and what explains it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from agent import config, tasks
from agent.bus import endpoints
from agent.serving import host, inputs, openapi, place, replica
from protocol import codec, problems, serving, subjects

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


class TooLarge(endpoints.Refusal):
    """A body has more bytes than are taken."""

    def __init__(self, most: int) -> None:
        message, hint = f"at most {most} bytes are taken", "send the rows in parts"
        super().__init__(problems.Problem("payload_too_large", message, path="$", hint=hint))


class _Server(uvicorn.Server):
    """Leaves the signals to the host."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class App:
    """Answers over HTTP what the host knows."""

    def __init__(self, serves: host.Host, settings: config.Serving) -> None:
        self._host = serves
        self._most = settings.max_bytes

    def made(self) -> Starlette:
        """Make the application."""
        table: list[tuple[str, Handler, str]] = [
            ("/v1/models/{name}:predict", self._predict, "POST"),
            ("/v1/models/{name}:outcome", self._outcome, "POST"),
            ("/v1/models/{name}", self._model, "GET"),
            ("/v1/models", self._models, "GET"),
            ("/healthz", self._health, "GET"),
            ("/openapi.json", self._openapi, "GET"),
            ("/", self._page, "GET"),
        ]
        routes = [Route(path, _told(handler), methods=[verb]) for path, handler, verb in table]
        strangers: dict[Any, Any] = {404: _no_such_place, 405: _no_such_place}
        return Starlette(routes=routes, exception_handlers=strangers)

    async def _predict(self, request: Request) -> Response:
        body = await _body(request, self._most)
        content_type = request.headers.get(subjects.CONTENT_TYPE)
        if content_type != inputs.ARROW and "msgpack" not in (content_type or ""):
            content_type = None  # curl and its like say that JSON is a form
        name, key = request.path_params["name"], request.headers.get(serving.ASSIGNMENT_KEY, "")
        told, headers = await self._host.ask(name, (body, content_type), key)
        return Response(
            told.body,
            told.number or 200,
            headers,
            media_type=replica.answered_as(content_type) or codec.JSON,
        )

    async def _outcome(self, request: Request) -> Response:
        outcome = codec.decode(await _body(request, self._most), serving.Outcome)
        return _json(self._host.take_outcome(request.path_params["name"], outcome))

    async def _models(self, _: Request) -> Response:
        served = self._host.served()
        return _json([_described(name, *known) for name, known in served.items()])

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        known = self._host.served().get(name)
        if known is None:
            message = f"no model {name[:64]!r} is deployed"
            raise endpoints.Refusal(problems.Problem("not_found", message))
        return _json(_described(name, *known))

    async def _health(self, _: Request) -> Response:
        waiting = sorted(self._host.waiting)
        ready = self._host.caught_up and not waiting
        told = {"status": "ok" if ready else "starting", "starting": waiting}
        return _json(told, 200 if ready else 503)

    async def _openapi(self, request: Request) -> Response:
        return _json(openapi.document(self._host.served(), str(request.base_url)))

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(openapi.page(self._host.served(), str(request.base_url)))


@contextlib.asynccontextmanager
async def serve(app: App, listening: socket.socket) -> AsyncIterator[None]:
    """Serve over a socket while the context lasts."""
    server = _Server(
        uvicorn.Config(
            app.made(), log_config=None, access_log=False, lifespan="off", server_header=False
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    try:
        yield
    finally:
        server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.wait({task})
        await tasks.end(task)


def listen(settings: config.Serving, own: Any) -> socket.socket:
    """Listen on the configured port, or on that of the last start while it is free."""
    for port in (settings.port or place.last_port(own), settings.port):
        with contextlib.suppress(OSError):
            made = socket.create_server((settings.host, port), backlog=1024)
            place.keep_port(own, made.getsockname()[1])
            return made
    return socket.create_server((settings.host, settings.port))


def url_of(listening: socket.socket) -> str:
    """Give the URL of a socket that listens."""
    where, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(where, where)  # noqa: S104 - compared, not listened on
    return f"http://{shown}:{port}"


async def _body(request: Request, most: int) -> bytes:
    """Read a body, and no more of it than is taken."""
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > most:
            raise TooLarge(most)
    return bytes(read)


def _told(handler: Handler) -> Handler:
    """Answer with a Problem whatever goes wrong."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:  # it is told to whoever asked
            problem = endpoints.problem_of(error)
            if problem.code == "internal":
                log.exception("answer.broke")
            response = _json(problem, endpoints.number(problem))
            if problem.code == "overloaded":
                response.headers[subjects.RETRY_AFTER] = str(endpoints.RETRY_AFTER_S)
            if isinstance(error, TooLarge):
                response.headers["Connection"] = "close"  # else the rest would be read as well
            return response

    return answer


async def _no_such_place(request: Request, error: HTTPException) -> Response:
    message = f"there is no {request.method} {request.url.path[:200]} here"
    problem = problems.Problem("not_found", message, hint="/openapi.json says what there is")
    return _json(problem, error.status_code)


def _described(name: str, version: str, about: replica.About) -> dict[str, Any]:
    card = about.card
    assert card is not None
    told = {field: getattr(card, field) for field in ("framework", "estimator", "task", "target")}
    return {"name": name, "version": version, **told, "classes": card.classes} | {
        "columns": card.columns
    }


def _json(value: Any, number: int = 200) -> Response:
    return Response(msgspec.json.encode(value), number, media_type=codec.JSON)
