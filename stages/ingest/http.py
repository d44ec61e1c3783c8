"""Owns the stage that reads a table from a JSON API, page by page."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from stages import hosts, kit, secrets, sources, values
from stages.ingest import asking, jsonl, nests, pacing, pages, table, text

_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z"
_PLAIN = r"^[ -~]*\Z"
_NOT_HERE = re.compile("auth|token|secret|passw|cookie|credential|session|api-?key")
_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})

Name = Annotated[str, msgspec.Meta(pattern=_NAME, max_length=200)]
Plain = Annotated[str, msgspec.Meta(pattern=_PLAIN, max_length=4000)]


class CredentialsInUri(kit.DataFault):
    """A user or password stands in the URI."""

    def __init__(self) -> None:
        super().__init__(
            "the uri holds a user or a password",
            hint="name a secret in auth: requests are kept in the journal",
            path=sources.PATH,
        )


class TooManyPages(kit.DataFault):
    """An API has more pages than are allowed; part of a table is not passed off as the whole."""

    def __init__(self, uri: str, most: int) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} has more than {most} pages",
            hint="raise max_pages, or set max_rows to take the first rows only",
            path="$.max_pages",
        )


class PagingLoops(kit.DataFault):
    """An API leads back to a page that was read, or gives the same records again."""

    def __init__(self, uri: str, count: int) -> None:
        super().__init__(
            f"the paging of {sources.shown(uri)!r} loops: after {count} pages comes one of them",
            hint="look at what paging says: the path of the link or cursor, the parameter's name",
            path="$.paging",
        )


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A header that carries a secret: by default `Authorization: Bearer …`."""

    secret: secrets.Secret
    header: Name = "Authorization"
    scheme: Name | None = "Bearer"
    """What stands before the secret; nothing where it is null."""


class Tally(msgspec.Struct):
    """What has been read so far."""

    pages: int = 0
    rows: int = 0
    cut: bool = False


@kit.stage("ingest.http", libraries=("pyarrow",), cacheable=False)
class Http(kit.Stage, frozen=True):
    """Read a table from a JSON API, page by page.

    Records are the objects of the list at `records`. Nested objects become columns with dots in
    their names, `depth` levels of them; what is deeper, and lists, become JSON text. What comes is
    never cached, since no server tells reliably whether any of its pages has changed.

    More pages than `max_pages` are a fault, for part of a table is not passed off as the whole;
    `max_rows` is a wish to be granted: the rest is not asked for, and the report says so.

    A secret goes to the origin of `uri` alone, which the configuration must name.
    """

    uri: Annotated[str, msgspec.Meta(pattern="^[Hh][Tt][Tt][Pp][Ss]?://")]
    """An `https:` or `http:` URL."""
    method: Literal["GET", "POST"] = "GET"
    """With POST, what pages ask for goes into the body."""
    params: dict[str, str | int | float | bool] = {}
    """Of the query."""
    body: dict[str, Any] | None = None
    """JSON to be posted."""
    headers: dict[Name, Plain] = {}
    """None that carries credentials: those are named in `auth`."""
    auth: Auth | None = None
    records: str = ""
    """Where the list is, as `data.items`; the whole answer, where empty."""
    paging: pages.Kind | None = None
    """A single page, where not given."""
    depth: Annotated[int, msgspec.Meta(ge=0, le=20)] = 3
    mixed: text.Mixed = "fail"
    """Whether a column of several types fails or is read as text."""
    max_pages: Annotated[int, msgspec.Meta(ge=1)] = 1_000
    max_rows: Annotated[int, msgspec.Meta(ge=1)] | None = None
    per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """At most so many requests, retries among them."""
    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    """Of each page, for what may work a moment later."""
    backoff_s: Annotated[float, msgspec.Meta(gt=0, le=30)] = 0.5
    """Before the second attempt; it doubles, with jitter. `Retry-After` comes before it."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 30.0
    """Of one attempt, from the connection to the last byte."""

    def __post_init__(self) -> None:
        """Refuse headers that are not the request's to set, and a body that isn't posted."""
        for name in map(str.lower, self.headers):
            if _NOT_HERE.search(name):
                msg = f"the header {name!r} carries credentials: name a secret in auth"
                raise ValueError(msg)
            if name in _OURS:
                msg = f"the header {name!r} is set by the stage"
                raise ValueError(msg)
        if self.body is not None and self.method != "POST":
            msg = "a body needs the method POST"
            raise ValueError(msg)

    def fingerprint(self, context: kit.Context) -> str | None:  # noqa: ARG002 - as the kit says
        """Give None: what an API will answer can't be told."""
        return None

    def run(self, context: kit.Context) -> table.Read:
        """Read every page, or as many as are needed."""
        secret = self.auth.secret.read(context.services, "$.auth.secret") if self.auth else ""
        try:
            return self._read(secret, context)
        except kit.StageFault as fault:  # a server may send back what it was sent
            fault.args = (secrets.scrub(str(fault), secret),)
            fault.hint = secrets.scrub(fault.hint, secret) if fault.hint else None
            raise

    def _read(self, secret: str, context: kit.Context) -> table.Read:
        lines = context.workdir / "records.jsonl"
        with asking.opened(self._request(secret), context) as asker:
            tally = self._collect(asker, lines, context)
        if not tally.rows:
            raise table.NoRows(self.uri)
        found = jsonl.read(self.uri, lines, self.mixed, context.services.max_input_bytes)
        found = table.named(_without_openings(found), facts := {"format": "json"})
        if not found.num_columns:
            raise table.NoRows(self.uri)
        report = _report(self.uri, found, tally, {**facts, **asker.facts()})
        return table.Read(values.Table(found), report)

    def _request(self, secret: str) -> asking.Request:
        parts = hosts.split(self.uri)
        if parts.username or parts.password:
            raise CredentialsInUri
        return asking.Request(
            uri=self.uri,
            method=self.method,
            params=self.params,
            body=self.body or {},
            headers=self.headers,
            secret=asking.header(self.auth.header, self.auth.scheme, secret) if self.auth else {},
            records=self.records,
            pacing=pacing.Terms(self.per_second, self.attempts, self.backoff_s, self.timeout_s),
        )

    def _collect(self, asker: asking.Asker, lines: pathlib.Path, context: kit.Context) -> Tally:
        tally = Tally()
        with lines.open("wb") as sink:
            for answer in self._pages(asker):
                found = nests.listed(answer.body, self.records)
                left = None if self.max_rows is None else self.max_rows - tally.rows
                for record in found[:left]:
                    asker.spend(sink.write(self._line(record)))
                tally.pages, tally.rows = tally.pages + 1, tally.rows + len(found[:left])
                self._tell(tally, context)
                if left is not None and len(found) >= left:
                    tally.cut = True
                    break
        return tally

    def _line(self, record: dict[str, Any]) -> bytes:
        try:
            return json.dumps(nests.flat(record, self.depth)).encode() + b"\n"
        except RecursionError as error:
            raise text.Broken(self.uri, "JSON", "it is nested too deep") from error

    def _pages(self, asker: asking.Asker) -> Iterator[pages.Answer]:
        ask: pages.Ask | None = self.paging.first() if self.paging else pages.Ask()
        seen: set[bytes] = set()
        last = b""
        while ask is not None:
            if ask.key() in seen:
                raise PagingLoops(self.uri, len(seen))
            if len(seen) == self.max_pages:
                raise TooManyPages(self.uri, self.max_pages)
            answer, digest = asker.page(ask)
            if digest == last and ask.values and answer.count:
                raise PagingLoops(self.uri, len(seen))
            seen.add(ask.key())
            last = digest
            yield answer
            ask = self.paging.after(ask, answer) if self.paging else None

    def _tell(self, tally: Tally, context: kit.Context) -> None:
        share = min(tally.rows / self.max_rows, 1.0) if self.max_rows else None
        said = f"{tally.rows} rows of {tally.pages} pages"
        context.progress(share, said, rows=tally.rows, pages=tally.pages)


def _without_openings(found: Any) -> Any:
    """Leave out columns of gaps where an object was null: its parts are columns of their own."""
    import pyarrow as pa

    names = found.column_names
    opened = {name[:place] for name in names for place, char in enumerate(name) if char == "."}
    gaps = [f.name for f in found.schema if pa.types.is_null(f.type) and f.name in opened]
    return found.drop_columns(gaps)


def _report(uri: str, found: Any, tally: Tally, facts: dict[str, Any]) -> values.Report:
    source = sources.shown(uri)
    said = f"{found.num_rows} rows and {found.num_columns} columns from {source}"
    if tally.cut:
        said += ", cut at max_rows: there may be more"
    counts = {"rows": found.num_rows, "columns": found.num_columns, "pages": tally.pages}
    report = {"title": "Ingestion", "summary": said, "source": source, "cut": tally.cut}
    return values.Report(report | counts | facts)
