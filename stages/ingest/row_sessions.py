"""Owns the reading of rows through SQLAlchemy, any dialect's, and their types in PostgreSQL."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stages.ingest import cells, databases, guard, statements, text

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

_READ_ONLY = {
    "postgresql": "SET TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
    "oracle": "SET TRANSACTION READ ONLY",
}
_STOPS = ("interrupt", "cancel_safe", "cancel", "close")
"""How a driver's connection is stopped from another thread, the kindest first."""
_ATTACH = 24
_NUMERIC = 1700
_MOST_DIGITS = 38
_CONNECT_TIMEOUT_S = "10"


@contextlib.contextmanager
def opened(
    place: databases.Place, secret: str, bounds: guard.Guard, settings: dict[str, Any]
) -> Iterator[Rows]:
    """Connect, forbid writing and limit the time, as far as the database can."""
    engine = _engine(place, secret)
    with engine.connect() as connection:
        if order := _READ_ONLY.get(engine.dialect.name):
            connection.exec_driver_sql(order)
        if engine.dialect.name == "postgresql":
            ms = max(1, int(bounds.left_s() * 1000))
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {ms}")
        yield Rows(connection, settings["chunk_rows"], settings["mixed"])


def _engine(place: databases.Place, secret: str) -> sa.Engine:
    import sqlalchemy as sa

    file = place.file
    if file is not None:
        return sa.create_engine(
            "sqlite://", creator=lambda: sqlite(file), poolclass=sa.pool.NullPool
        )
    url = place.url.set(password=secret) if secret else place.url
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql" and _driver(url) == "psycopg":
        # The name stays for the certificate; the address is the one that was judged.
        arguments["host"] = ",".join([str(url.host)] * len(place.addresses))
        arguments["hostaddr"] = ",".join(place.addresses)
        arguments["connect_timeout"] = url.query.get("connect_timeout", _CONNECT_TIMEOUT_S)
    elif not place.trusted:
        url = url.set(host=place.addresses[0])
    try:
        return sa.create_engine(url, connect_args=arguments, poolclass=sa.pool.NullPool)
    except (sa.exc.NoSuchModuleError, ImportError) as error:
        raise _no_driver(url, error) from error


def _driver(url: sa.URL) -> str:
    return url.drivername.partition("+")[2] or "psycopg"


def _no_driver(url: sa.URL, error: Exception) -> databases.NoDriver:
    name = error.name if isinstance(error, ImportError) and error.name else url.drivername
    if url.get_backend_name() == "postgresql":
        hint = "install the extra postgres, and let the URL start with postgresql:"
    else:
        hint = "install the database's SQLAlchemy driver on every node where the stages run"
    return databases.NoDriver(name, hint)


def sqlite(file: Any) -> sqlite3.Connection:
    """Open a SQLite file to be read, and no other with it."""
    connection = sqlite3.connect(
        databases.read_only(file), uri=True, check_same_thread=False, timeout=5
    )
    connection.execute("PRAGMA query_only = ON")
    connection.set_authorizer(_judged)
    return connection


def _judged(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == _ATTACH else sqlite3.SQLITE_OK


class Rows:
    """A connection of SQLAlchemy's that reads."""

    def __init__(self, connection: sa.Connection, chunk_rows: int, mixed: text.Mixed) -> None:
        self._connection = connection
        self._chunk_rows = chunk_rows
        self._mixed = mixed

    def read(self, statement: statements.Statement, bounds: guard.Guard) -> pa.Table:
        """Read by a cursor on the server's side where there is one, so much at a time."""
        written, params = statements.written(statement, self._connection.dialect.paramstyle)
        streaming = self._connection.execution_options(
            stream_results=True, max_row_buffer=self._chunk_rows
        )
        with streaming.exec_driver_sql(written, params) as result:
            columns = self._columns(result.cursor.description if result.cursor else [])
            while rows := result.fetchmany(bounds.size(self._chunk_rows)):
                kept = rows[: bounds.wanted(len(rows))]
                parts = zip(columns, zip(*kept, strict=True), strict=bool(kept))
                bounds.took(len(kept), sum(column.add(part) for column, part in parts))
                if bounds.truncated:
                    break
        return _table(columns)

    def _columns(self, description: Sequence[Any]) -> list[cells.Column]:
        known = self._connection.dialect.name == "postgresql"
        columns = []
        for each in description:
            declared, otherwise = _declared(each) if known else (None, None)
            columns.append(
                cells.Column(each[0], self._mixed, declared=declared, otherwise=otherwise)
            )
        return columns

    def stop(self) -> None:
        """Stop the query, as its driver can."""
        raw: Any = self._connection.connection.dbapi_connection
        getattr(raw, next(name for name in _STOPS if hasattr(raw, name)))()

    def tables(self) -> list[str]:
        """Name the tables and views of the default schema."""
        import sqlalchemy as sa

        with contextlib.suppress(Exception):  # it only helps to give a hint
            self._connection.rollback()
            look = sa.inspect(self._connection)
            return [*look.get_table_names(), *look.get_view_names()]
        return []


def _table(columns: list[cells.Column]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_arrays(
        [column.whole() for column in columns], names=[column.name for column in columns]
    )


def _declared(description: Sequence[Any]) -> tuple[pa.DataType | None, pa.DataType | None]:
    """Give what PostgreSQL says of a column: its type, or what it is if it has only gaps."""
    import pyarrow as pa

    code, digits, scale = description[1], description[4], description[5]
    if code != _NUMERIC:
        return _by_oid().get(code), None
    if digits is not None and digits <= _MOST_DIGITS and 0 <= scale <= digits:
        return pa.decimal128(digits, scale), None
    return None, pa.decimal128(_MOST_DIGITS, 10)


@functools.cache
def _by_oid() -> dict[int, pa.DataType]:
    """Map PostgreSQL's object identifiers of built-in types, which never change."""
    import pyarrow as pa

    plain = {
        16: pa.bool_(),
        17: pa.binary(),
        20: pa.int64(),
        21: pa.int16(),
        23: pa.int32(),
        26: pa.int64(),
        700: pa.float32(),
        701: pa.float64(),
        1082: pa.date32(),
        1083: pa.time64("us"),
        1114: pa.timestamp("us"),
        1184: pa.timestamp("us", "UTC"),
        1186: pa.duration("us"),
    }
    texts = dict.fromkeys((18, 19, 25, 114, 1042, 1043, 2950, 3802), pa.string())
    arrays = {1000: 16, 1005: 21, 1007: 23, 1016: 20, 1021: 700, 1022: 701, 1009: 25, 1015: 25}
    known = plain | texts
    return known | {code: pa.list_(known[each]) for code, each in arrays.items()}
