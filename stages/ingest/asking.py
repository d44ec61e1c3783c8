"""Owns the asking of an API for one page: what goes to which origin, retries, and how much comes.

A request's own headers, and the secret above all, go to the origin of its URI and nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from stages import hosts, kit, sources
from stages.ingest import nests, pacing, pages

if TYPE_CHECKING:
    import httpx

LARGEST_PAGE = 256 * 2**20
"""A page is taken apart in memory, where it grows."""
_BUSY = (429, 503)
_PORTS = {"http": 80, "https": 443}


class OtherOrigin(kit.NotAllowed):
    """A link or redirect leads to another origin, whose host the configuration does not name."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"a link or redirect leads to another origin, at {host!r}, and is not followed",
            hint="the agent's setting access.allowed_hosts names the hosts that may be reached so",
            path=sources.PATH,
        )
        self.host = host


class SecretNotForHost(kit.NotAllowed):
    """A secret would go to a host that the configuration does not name."""

    def __init__(self, host: str, path: str = "$.auth") -> None:
        super().__init__(
            f"no secret is sent to {host!r}: the configuration does not name this host",
            hint="name it in the agent's setting access.allowed_hosts",
            path=path,
        )
        self.host = host


class BadSecret(kit.DataFault):
    """A secret can't stand in a header. It is not shown."""

    def __init__(self) -> None:
        super().__init__(
            "the secret can't stand in a header: it has line breaks or letters beyond ASCII",
            hint="look at the file or variable that it is kept in",
            path="$.auth.secret",
        )


class NotJson(kit.DataFault):
    """What an API answers is not JSON."""

    def __init__(self, uri: str, kind: str, reason: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} does not answer JSON but {kind[:80] or 'something'}: {reason}",
            hint="look at the uri: an API's often differs from that of its page",
            path=sources.PATH,
        )


class Request(msgspec.Struct, frozen=True):
    """What all pages are asked for alike."""

    uri: str
    method: str
    params: dict[str, Any]
    body: dict[str, Any]
    headers: dict[str, str]
    secret: dict[str, str]
    records: str
    pacing: pacing.Terms

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Request({sources.shown(self.uri)!r})"


def header(name: str, scheme: str | None, secret: str) -> dict[str, str]:
    """Make the header that carries a secret. Raises BadSecret."""
    if not (secret.isascii() and secret.isprintable()):
        raise BadSecret
    return {name: f"{scheme} {secret}" if scheme else secret}


class _Guard:
    """Lets each request, redirects included, know what its origin may know."""

    def __init__(self, request: Request, services: kit.Services) -> None:
        self._home = _origin(request.uri)
        self._own = {"accept": "application/json", **request.headers, **request.secret}
        self._listed = {name.lower() for name in services.allowed_hosts}
        if request.secret and self._home[1] not in self._listed:
            raise SecretNotForHost(self._home[1])

    def __call__(self, request: httpx.Request) -> None:
        origin = _origin(str(request.url))
        if origin == self._home:
            request.headers.update(self._own)
            return
        if origin[1] not in self._listed:
            raise OtherOrigin(origin[1])
        for name in (*self._own, "cookie", "authorization"):
            request.headers.pop(name, None)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = hosts.split(url)
    host = (parts.hostname or "").rstrip(".")
    return parts.scheme, host, parts.port or _PORTS.get(parts.scheme)


@contextlib.contextmanager
def opened(request: Request, context: kit.Context) -> Iterator[Asker]:
    """Give what asks for pages, with one client for all of them."""
    guard = _Guard(request, context.services)
    hooks = {"request": [guard]}
    timeout_s = request.pacing.timeout_s
    with hosts.client(context.services, timeout=timeout_s, event_hooks=hooks) as web:
        yield Asker(request, context, web)


class Asker:
    """Asks for pages, and counts what comes."""

    def __init__(self, request: Request, context: kit.Context, web: httpx.Client) -> None:
        self._request = request
        self._context = context
        self._web = web
        self._pace = pacing.Pace(request.pacing.per_second, context.check)
        self._requests = 0
        self._bytes = 0
        self._written = 0

    def facts(self) -> dict[str, int]:
        """Give what the report says of the asking."""
        return {"requests": self._requests, "bytes": self._bytes}

    def page(self, ask: pages.Ask) -> tuple[pages.Answer, bytes]:
        """Ask for a page, several times if need be; give it, and the digest of what came."""
        terms = self._request.pacing
        retrying = pacing.retrying(terms.attempts, terms.backoff_s, self._pace)
        return retrying(self._asked, ask)

    def spend(self, size: int) -> None:
        """Count bytes that were written. Raises TooLarge."""
        self._written += size
        if self._written > (limit := self._context.services.max_input_bytes):
            raise sources.TooLarge(self._request.uri, limit)

    def _asked(self, ask: pages.Ask) -> tuple[pages.Answer, bytes]:
        self._pace.wait_turn()
        self._requests += 1
        uri = ask.url or self._request.uri
        with self._sent(uri, ask) as answer:
            _require_good(uri, answer)
            raw = self._whole(uri, answer)
            kind, url = answer.headers.get("content-type", ""), str(answer.url)
            link = answer.links.get("next", {}).get("url")
        body = _decoded(uri, raw, kind)
        found = nests.at(body, self._request.records)
        count = len(found) if isinstance(found, list) else 0
        return pages.Answer(url, body, count, link), hashlib.sha256(raw).digest()

    @contextlib.contextmanager
    def _sent(self, uri: str, ask: pages.Ask) -> Iterator[httpx.Response]:
        with sources.translated(uri), self._web.stream(**self._arguments(ask)) as answer:
            yield answer

    def _arguments(self, ask: pages.Ask) -> dict[str, Any]:
        request = self._request
        if ask.url is not None:
            return {"method": request.method, "url": ask.url, **self._posted({})}
        posted = self._posted(ask.values)
        params = request.params if posted else {**request.params, **ask.values}
        return {"method": request.method, "url": _with_query(request.uri, params), **posted}

    def _posted(self, more: pages.Values) -> dict[str, Any]:
        return {"json": {**self._request.body, **more}} if self._request.method == "POST" else {}

    def _whole(self, uri: str, answer: httpx.Response) -> bytes:
        """Take in an answer within the time, the bytes that are left and those of a page."""
        until = time.monotonic() + self._request.pacing.timeout_s
        limit, found = self._context.services.max_input_bytes, bytearray()
        for chunk in answer.iter_bytes(sources.CHUNK):
            self._context.check()
            self._bytes += len(chunk)
            found += chunk
            if self._bytes > limit:
                raise sources.TooLarge(uri, limit)
            if len(found) > LARGEST_PAGE:
                raise sources.TooLarge(uri, LARGEST_PAGE)
            if time.monotonic() > until:
                raise sources.Unavailable(uri, "the answer takes too long")
        return bytes(found)


def _with_query(uri: str, params: dict[str, Any]) -> httpx.URL:
    """Add to a URI's query, which a client's own `params` would replace."""
    import httpx

    return httpx.URL(uri).copy_merge_params(params)


def _require_good(uri: str, answer: httpx.Response) -> None:
    if answer.status_code in _BUSY:
        asked = pacing.wait_asked(answer.headers.get("retry-after"))
        raise pacing.Busy(uri, answer.status_code, asked)
    sources.require_good(uri, answer)


def _decoded(uri: str, raw: bytes, kind: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise NotJson(uri, kind, str(error)) from error
