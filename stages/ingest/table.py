"""Owns the stage that reads a table from a file: CSV, Parquet, JSON Lines or Arrow IPC."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from stages import columns, kit, sources, values
from stages.ingest import binary, jsonl, text

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["csv", "parquet", "jsonl", "arrow"]
Uris = str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]

_EXTENSIONS: dict[str, Format] = {
    "csv": "csv",
    "tsv": "csv",
    "txt": "csv",
    "parquet": "parquet",
    "pq": "parquet",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "arrow": "arrow",
    "ipc": "arrow",
    "feather": "arrow",
}
_MAGIC: dict[bytes, Format] = {b"PAR1": "parquet", b"ARRO": "arrow"}


class Read(NamedTuple):
    """The rows, and where they came from."""

    table: values.Table
    report: values.Report


class NoRows(kit.DataFault):
    """A source has no rows."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} has no rows", hint="look at the source", path=sources.PATH
        )


class UnknownFormat(kit.DataFault):
    """Neither the parameter nor the name nor the content tells a file's format."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"the format of {sources.shown(uri)!r} can't be told",
            hint="set format to csv, parquet, jsonl or arrow",
            path="$.format",
        )


class NoSource(kit.DataFault):
    """Neither the primary nor a backup could be read."""

    def __init__(self, failed: list[dict[str, str]]) -> None:
        reasons = "; ".join(each["error"] for each in failed)
        super().__init__(f"none of {len(failed)} sources can be read: {reasons}", path=sources.PATH)
        self.failed = failed


class NoSourceNow(kit.Transient):
    """No source could be read, and one of them may be there a moment later."""

    def __init__(self, failed: list[dict[str, str]]) -> None:
        reasons = "; ".join(each["error"] for each in failed)
        super().__init__(f"none of {len(failed)} sources can be read: {reasons}", path=sources.PATH)
        self.failed = failed


@kit.stage("ingest.table", libraries=("pyarrow", "pandas"))
class Table(kit.Stage, frozen=True):
    """Read a table from CSV, Parquet, JSON Lines or Arrow IPC: the first of several that works.

    Numbers that are not finite stay as they are: `quality.expect` decides about them.
    """

    uri: Uris
    """A path, or a `file:`, `https:`, `s3:` … URI; the first of several is the primary."""
    format: Format | None = None
    """Told by the name's extension, or the content, where not given."""
    columns: list[str] = []
    """All, where none are named."""
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Read at most so many rows."""
    delimiter: Annotated[str, msgspec.Meta(pattern=r'^[^"\r\n]$')] | None = None
    """Of CSV; found by looking, where not given."""
    encoding: str = "utf-8"
    """Of CSV."""
    nulls: tuple[str, ...] = text.NULLS
    """Texts that stand for a gap in CSV."""
    mixed: text.Mixed = "fail"
    """Whether a column of several types fails or is read as text."""

    def fingerprint(self, context: kit.Context) -> str | None:
        """Digest the primary and the backups: each of them may be the one that is read."""
        return sources.digests(self._uris(), context.services)

    def run(self, context: kit.Context) -> Read:
        """Read the first source that can be read."""
        failed: list[dict[str, str]] = []
        faults: list[kit.StageFault] = []
        for uri in self._uris():
            context.progress(0.0, f"reading {sources.shown(uri)}")
            try:
                found, facts = self._read(uri, context)
            except (kit.DataFault, kit.Transient) as fault:
                failed.append({"uri": sources.shown(uri), "error": str(fault)})
                faults.append(fault)
            else:
                return Read(values.Table(found), _report(uri, found, facts, failed))
        if len(faults) == 1:
            raise faults[0]
        raise (NoSourceNow if any(fault.retryable for fault in faults) else NoSource)(failed)

    def _uris(self) -> list[str]:
        return [self.uri] if isinstance(self.uri, str) else self.uri

    def _names(self) -> list[str]:
        return list(dict.fromkeys(self.columns))

    def _read(self, uri: str, context: kit.Context) -> tuple[pa.Table, dict[str, Any]]:
        fetched = sources.fetch(uri, context)
        path, name = sources.decompressed(uri, fetched, context)
        if text.is_blank(path):
            raise NoRows(uri)
        kind = self.format or _format_of(uri, path, name)
        facts: dict[str, Any] = {"format": kind, "bytes": fetched.stat().st_size}
        found = self._parsed(uri, path, kind, context.services.max_input_bytes, facts)
        if repeated := sorted({n for n in found.column_names if found.column_names.count(n) > 1}):
            raise text.RepeatedColumns(uri, repeated)
        if not found.num_rows or not found.num_columns:
            raise NoRows(uri)
        return self._chosen(named(found, facts)), facts

    def _parsed(
        self, uri: str, path: pathlib.Path, kind: Format, limit: int, facts: dict[str, Any]
    ) -> pa.Table:
        if kind == "parquet":
            return binary.read_parquet(uri, path, self._names(), self.limit, limit)
        if kind == "arrow":
            return binary.read_arrow(uri, path, self._names(), self.limit, limit)
        encoding = self.encoding if kind == "csv" else "utf-8"
        text.require_encoding(uri, path, encoding)
        if kind == "jsonl":
            return jsonl.read(uri, path, self.mixed, limit)
        delimiter = text.delimiter_of(path, encoding, self.delimiter)
        facts |= {"delimiter": delimiter, "encoding": encoding}
        return text.read_csv(uri, path, delimiter, encoding, list(self.nulls), self.mixed)

    def _chosen(self, found: pa.Table) -> pa.Table:
        columns.require(values.Table(found), self.columns, "$.columns")
        chosen = found.select(self._names()) if self.columns else found
        return chosen.slice(0, self.limit) if self.limit is not None else chosen


def _format_of(uri: str, path: pathlib.Path, name: str) -> Format:
    if known := _EXTENSIONS.get(name.rpartition(".")[2] if "." in name else ""):
        return known
    with path.open("rb") as source:
        start = source.read(4)
    if known := _MAGIC.get(start):
        return known
    raise UnknownFormat(uri)


def named(found: pa.Table, facts: dict[str, Any]) -> pa.Table:
    """Name what has no name, as the index that pandas writes; give columns of gaps a type."""
    import pyarrow as pa

    names = list(found.column_names)
    for place, name in enumerate(names):
        if not name.strip():
            names[place] = _free(f"column_{place + 1}", names)
            facts.setdefault("named", []).append(names[place])
    found = found.rename_columns(names)
    fields = [f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in found.schema]
    return found.cast(pa.schema(fields))


def _free(name: str, taken: list[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _report(
    uri: str, found: pa.Table, facts: dict[str, Any], failed: list[dict[str, str]]
) -> values.Report:
    source = sources.shown(uri)
    said = f"{found.num_rows} rows and {found.num_columns} columns from {source}"
    if failed:
        said += f", a backup: {len(failed)} before it could not be read"
    counts = {"rows": found.num_rows, "columns": found.num_columns}
    report = {"title": "Ingestion", "summary": said, "source": source, **counts, **facts}
    return values.Report(report | {"failed": failed})
