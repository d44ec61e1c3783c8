"""Owns the stage that reads the rows of a query from a database."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stages import kit, secrets, sources, values
from stages.ingest import (
    asking,
    databases,
    guard,
    refusals,
    row_sessions,
    sessions,
    statements,
    table,
    text,
)

if TYPE_CHECKING:
    import pyarrow as pa

Urls = str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]

_FUNCTION = 31
_CLOCK = ("date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff")
_NOW = ("current_date", "current_time", "current_timestamp")
_VOLATILE = frozenset({"random", "randomblob", *_CLOCK, *_NOW})
"""Functions of SQLite that may answer otherwise while the file stays the same."""
_VERSION_TIMEOUT_S = 30.0
_PASSWORD = "$.password"  # noqa: S105 - a path


class NoRows(kit.DataFault):
    """A query has no rows."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the query has no rows in {sources.shown(name)!r}",
            hint="look at its conditions and params",
            path=refusals.QUERY,
        )


class RepeatedNames(kit.DataFault):
    """Several columns of a query have one name."""

    def __init__(self, names: list[str]) -> None:
        shown = ", ".join(repr(name) for name in names[:5])
        super().__init__(
            f"the query has several columns of the name {shown}",
            hint="name them with AS",
            path=refusals.QUERY,
        )


@kit.stage("ingest.sql", libraries=("sqlalchemy", "pyarrow"))
class Sql(kit.Stage, frozen=True):
    """Read a query's rows from a database: of several URLs the first that works.

    Nothing is written: PostgreSQL, MySQL, MariaDB and Oracle are told so, SQLite files are opened
    so, and elsewhere the query is one SELECT that is rolled back.
    """

    url: Urls
    """SQLAlchemy's, as `postgresql://user@host/shop` or `sqlite:///shop.db` (relative to the first
    data root), or an ADBC driver's, as `adbc+sqlite:shop.db`; the first of several is the primary.
    A password does not stand in it."""
    query: Annotated[str, msgspec.Meta(min_length=1)]
    """One SELECT or WITH; `:name` stands for a parameter."""
    params: dict[str, statements.Scalar] = {}
    """Values by name; they are bound, and never written into the query."""
    password: secrets.Secret | None = None
    """Where the password is kept. It is sent only to a host that the configuration names."""
    driver: str | None = None
    """Read through this ADBC driver, as `sqlite` or `postgresql`, instead of SQLAlchemy."""
    chunk_rows: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    """So many rows are fetched at a time."""
    max_rows: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Read at most so many rows."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    """For one database; the query is stopped then, at the database where it can."""
    version_query: str | None = None
    """A query whose first value changes whenever the rows may, as `SELECT max(updated_at) FROM t`.
    With it the result is cached; without it only that of a SQLite file is, by its digest."""
    mixed: text.Mixed = "fail"
    """Whether a column of several types fails or is read as text."""

    def fingerprint(self, context: kit.Context) -> str | None:
        """Digest the versions of all databases: each of them may be the one that is read."""
        found = [self._version(url, context) for url in self._urls()]
        if any(each is None for each in found):
            return None
        return hashlib.sha256("\n".join(map(str, found)).encode()).hexdigest()

    def run(self, context: kit.Context) -> table.Read:
        """Read from the first database that answers."""
        statement = self._statement()
        failed: list[dict[str, str]] = []
        faults: list[kit.StageFault] = []
        for url in self._urls():
            try:
                place = databases.place(url, self.driver, context.services)
                return self._read(place, statement, context, failed)
            except (kit.DataFault, kit.Transient, guard.TookTooLong) as fault:
                failed.append({"uri": _shown(url), "error": str(fault)})
                faults.append(fault)
        if len(faults) == 1:
            raise faults[0]
        again = any(fault.retryable for fault in faults)
        every = (table.NoSourceNow if again else table.NoSource)(failed)
        every.path = refusals.URL
        raise every

    def _urls(self) -> list[str]:
        return [self.url] if isinstance(self.url, str) else self.url

    def _statement(self) -> statements.Statement:
        main = statements.one(self.query, self.params, refusals.QUERY)
        statements.require_named(self.params, main, self._version_statement())
        return main

    def _version_statement(self) -> statements.Statement | None:
        if self.version_query is None:
            return None
        return statements.one(self.version_query, self.params, "$.version_query")

    def _read(
        self,
        place: databases.Place,
        statement: statements.Statement,
        context: kit.Context,
        failed: list[dict[str, str]],
    ) -> table.Read:
        context.progress(0.0, f"reading {sources.shown(place.name)}")
        bounds = guard.Guard(place.name, context, timeout_s=self.timeout_s, max_rows=self.max_rows)
        found = self._rows(place, statement, bounds, self._secret(place, context))
        if not found.num_rows:
            raise NoRows(place.name)
        facts: dict[str, Any] = {"truncated": bounds.truncated}
        found = table.named(found, facts)
        return table.Read(values.Table(found), _report(place, found, facts, failed))

    def _secret(self, place: databases.Place, context: kit.Context) -> str:
        if self.password is None:
            return ""
        if not place.trusted:
            raise asking.SecretNotForHost(str(place.url.host), _PASSWORD)
        return self.password.read(context.services, _PASSWORD)

    def _rows(
        self,
        place: databases.Place,
        statement: statements.Statement,
        bounds: guard.Guard,
        secret: str,
    ) -> pa.Table:
        settings: dict[str, Any] = {"chunk_rows": self.chunk_rows, "mixed": self.mixed}
        with sessions.opened(place, secret, bounds, settings) as session:
            found = session.read(statement, bounds)
        names = found.column_names
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise RepeatedNames(repeated)
        return found

    def _version(self, url: str, context: kit.Context) -> str | None:
        statement = self._statement()
        try:
            place = databases.place(url, self.driver, context.services)
            if version := self._version_statement():
                return self._asked(place, version, context)
        except (kit.DataFault, kit.Transient, guard.TookTooLong):
            return None
        if place.file is None or not _steady(place, statement):
            return None
        return sources.digests([str(place.file), f"{place.file}-wal"], context.services)

    def _asked(
        self, place: databases.Place, version: statements.Statement, context: kit.Context
    ) -> str | None:
        seconds = min(self.timeout_s, _VERSION_TIMEOUT_S)
        bounds = guard.Guard(place.name, context, timeout_s=seconds, max_rows=1)
        found = self._rows(place, version, bounds, self._secret(place, context))
        return str(found.column(0)[0].as_py()) if found.num_rows else None


def _shown(url: str) -> str:
    with contextlib.suppress(databases.Malformed):
        return databases.shown(url)
    return "a malformed URL"


def _steady(place: databases.Place, statement: statements.Statement) -> bool:
    """Tell whether a query's rows depend on the SQLite file alone: no clock, no chance."""
    import sqlite3

    used: set[str] = set()

    def note(action: int, _: str | None, name: str | None, *__: str | None) -> int:
        if action == _FUNCTION and name:
            used.add(name.lower())
        return sqlite3.SQLITE_OK

    try:
        with contextlib.closing(row_sessions.sqlite(place.file)) as connection:
            connection.set_authorizer(note)
            written, params = statements.written(statement, "named")
            connection.execute(f"EXPLAIN {written}", params)
    except sqlite3.Error:
        return False
    return not used & _VOLATILE


def _report(
    place: databases.Place, found: pa.Table, facts: dict[str, Any], failed: list[dict[str, str]]
) -> values.Report:
    source = sources.shown(place.name)
    said = f"{found.num_rows} rows and {found.num_columns} columns from {source}"
    if facts["truncated"]:
        said += "; there are more rows"
    if failed:
        said += f", a backup: {len(failed)} before it could not be read"
    counts = {"rows": found.num_rows, "columns": found.num_columns}
    report = {"title": "Ingestion", "summary": said, "source": source, **counts}
    kind = {"database": place.url.get_backend_name(), "driver": place.adbc or "sqlalchemy"}
    return values.Report(report | kind | facts | {"failed": failed})
