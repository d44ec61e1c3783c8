"""Owns a real HTTP server whose answers a test writes down."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from http import server
from typing import Any
from urllib import parse


@dataclasses.dataclass
class Reply:
    body: Any = b""
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Seen:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    port: int
    """The client's: the same for two requests on one connection."""
    at: float


class Web:
    """Answers by path; keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.routes: dict[str, Callable[[Seen], Reply] | Reply] = {}
        self.port = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        found = self.routes.get(seen.path, Reply(status=404))
        return found(seen) if callable(found) else found


@contextlib.contextmanager
def serving() -> Iterator[Web]:
    web = Web()

    class Handler(server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = parse.urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            query, headers = dict(parse.parse_qsl(parts.query)), {}
            for name, value in self.headers.items():
                headers[name.lower()] = value
            seen = Seen(
                self.command, parts.path, query, headers, body, self.client_address[1],
                time.monotonic(),
            )  # fmt: skip
            self._send(web.answer(seen))

        do_POST = do_HEAD = do_GET  # noqa: N815 - the names that http.server calls

        def _send(self, reply: Reply) -> None:
            raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(raw)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(ConnectionError):  # a client that has read enough
                    self.wfile.write(raw)

    class Quiet(server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as httpd:
        web.port = httpd.server_address[1]
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield web
        finally:
            httpd.shutdown()
            thread.join()
