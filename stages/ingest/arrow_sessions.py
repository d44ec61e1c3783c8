"""Owns the reading of Arrow batches through ADBC drivers."""

from __future__ import annotations

import contextlib
import decimal
import importlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stages import kit
from stages.ingest import cells, databases, guard, refusals, statements, text

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHIPPED = frozenset({"sqlite"})
"""The drivers that the extra brings."""
_STRICT = """\
SELECT count(DISTINCT typeof({column})) FROM (SELECT * FROM ({query}
) LIMIT {rows}) WHERE {column} IS NOT NULL"""
"""The line ends after the query, which may end in a comment."""
_CHANGED = re.compile(r"type mismatch in column (\d+): (.*)", re.IGNORECASE)


class TypeChanged(kit.DataFault):
    """A column's later values do not fit the type that a driver saw in the first ones."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(
            f"the column {column!r} changes its type among its rows: {reason}",
            hint="cast it in the query, raise chunk_rows so that the first rows show its type, "
            "or read without an ADBC driver",
            path="$.chunk_rows",
        )
        self.column = column


@contextlib.contextmanager
def opened(
    place: databases.Place, secret: str, bounds: guard.Guard, settings: dict[str, Any]
) -> Iterator[Batches]:
    """Connect through the driver, forbid writing and limit the time as far as it can."""
    driver = str(place.adbc)
    with _module(driver).connect(_uri(place, secret)) as connection:
        if driver == "postgresql":
            ms = max(1, int(bounds.left_s() * 1000))
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION READ ONLY")
                cursor.execute(f"SET LOCAL statement_timeout = {ms}")
        with connection.cursor() as cursor:
            yield Batches(driver, connection, cursor, settings["chunk_rows"], settings["mixed"])


def _module(driver: str) -> Any:
    """Import a driver by its name. A path to a library would be another's code in our process."""
    distribution = f"adbc-driver-{driver.replace('_', '-')}"
    if not _NAME.fullmatch(driver) or driver == "manager":
        raise databases.NoDriver(distribution, "as 'sqlite' or 'postgresql'", "has no such name")
    try:
        return importlib.import_module(f"adbc_driver_{driver}.dbapi")
    except ImportError as error:
        extra = "install the extra adbc"
        hint = extra if driver in _SHIPPED else f"{extra}, and the distribution {distribution}"
        raise databases.NoDriver(distribution, hint) from error


def _uri(place: databases.Place, secret: str) -> str:
    if place.file is not None:
        return databases.read_only(place.file)
    url = place.url.set(password=secret) if secret else place.url
    if place.adbc == "postgresql":  # libpq's: the name stays for the certificate
        url = url.update_query_dict({"hostaddr": place.addresses[0]})
    elif not place.trusted:
        url = url.set(host=place.addresses[0])
    return url.render_as_string(hide_password=False).replace(" ", "%20")  # libpq takes no spaces


class Batches:
    """A connection of ADBC's that reads."""

    def __init__(
        self, driver: str, connection: Any, cursor: Any, chunk_rows: int, mixed: text.Mixed
    ) -> None:
        self._driver = driver
        self._connection = connection
        self._cursor = cursor
        self._chunk_rows = chunk_rows
        self._mixed = mixed

    def read(self, statement: statements.Statement, bounds: guard.Guard) -> pa.Table:
        """Read batch by batch; the driver chooses the types."""
        style = "numeric_dollar" if self._driver == "postgresql" else "qmark"
        written, params = statements.written(statement, style)
        if self._driver == "sqlite":
            rows = {"adbc.sqlite.query.batch_rows": self._chunk_rows}
            self._cursor.adbc_statement.set_options(**rows)
        self._cursor.execute(written, params or None)
        with self._cursor.fetch_record_batch() as reader:
            found = self._gathered(reader, bounds)
        if self._driver == "sqlite" and self._mixed == "fail":
            self._require_one_type(written, params, found)
        return plain(found)

    def _gathered(self, reader: pa.RecordBatchReader, bounds: guard.Guard) -> pa.Table:
        import pyarrow as pa

        taken = []
        try:
            for batch in reader:
                batch.validate(full=True)  # SQLite's calls bytes a text
                part = batch.slice(0, bounds.wanted(batch.num_rows))
                bounds.took(part.num_rows, part.nbytes)
                taken.append(part)
                if bounds.truncated:
                    break
        except (pa.ArrowException, OSError) as error:
            raise _amid(error, reader.schema, bounds.name) from error
        return pa.Table.from_batches(taken, reader.schema)

    def _require_one_type(self, written: str, params: Any, found: pa.Table) -> None:
        """Raise MixedTypes where SQLite's driver has made one type of several, and not said so."""
        for field in found.schema:
            if str(field.type) not in {"string", "binary"}:
                continue
            column = '"' + field.name.replace('"', '""') + '"'
            query = _STRICT.format(column=column, query=written, rows=found.num_rows)
            self._cursor.execute(query, params or None)
            if self._cursor.fetchone()[0] > 1:
                raise cells.MixedTypes(field.name, "texts", ["values of other types"])

    def stop(self) -> None:
        """Stop the query, if the driver can; SQLite's can't within a batch."""
        self._cursor.adbc_cancel()

    def tables(self) -> list[str]:
        """Name the tables, as far as the driver tells."""
        with contextlib.suppress(Exception):  # it only helps to give a hint
            tree = self._connection.adbc_get_objects(depth="tables").read_all().to_pylist()
            schemas = [schema for each in tree for schema in each["catalog_db_schemas"] or []]
            tables = [table for each in schemas for table in each["db_schema_tables"] or []]
            return [table["table_name"] for table in tables]
        return []


def plain(found: pa.Table) -> pa.Table:
    """Write extension types as what any library reads: identifiers and JSON as texts, numbers."""
    import pyarrow as pa

    for place, field in enumerate(found.schema):
        if not isinstance(field.type, pa.BaseExtensionType):
            continue
        numeric = getattr(field.type, "type_name", None) == "numeric"
        column = cells.Column(
            field.name, "fail", otherwise=pa.decimal128(38, 10) if numeric else None
        )
        for chunk in found[field.name].chunks:
            column.add(_meant(chunk, numeric=numeric))
        found = found.set_column(place, field.name, column.whole())
    return found


def _meant(chunk: Any, *, numeric: bool) -> list[Any]:
    if not numeric:
        return list(chunk.to_pylist())
    texts = chunk.storage.to_pylist()
    return [None if each is None else decimal.Decimal(each) for each in texts]


def _amid(error: Exception, schema: pa.Schema, name: str) -> kit.StageFault:
    """Tell what ails a stream of batches: it comes as Arrow's error, with the driver's text."""
    if changed := _CHANGED.search(str(error)):
        return TypeChanged(schema.names[int(changed[1])], changed[2])
    return refusals.of(error, name, str(error), refusals.BadQuery)
