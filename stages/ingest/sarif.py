"""Owns the stage that reads the findings of static analysis from SARIF 2.1.0."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from stages import kit, sources, values
from stages.ingest import findings, scans

if TYPE_CHECKING:
    import pyarrow as pa

Uris = str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]


class Read(NamedTuple):
    """The findings, and where they came from."""

    table: values.Table
    report: values.Report


class NoResults(kit.DataFault):
    """No log holds a result."""

    def __init__(self, uris: list[str], reason: str, hint: str) -> None:
        more = f" and {len(uris) - 1} more" if uris[1:] else ""
        super().__init__(
            f"{sources.shown(uris[0])!r}{more}: {reason}", hint=hint, path=sources.PATH
        )


class _Log(msgspec.Struct, frozen=True):
    """What is kept of a log once its findings are a table."""

    uri: str
    size: int
    found: Any
    runs: int
    failed: bool
    """The tool says that a run of it did not succeed."""
    elsewhere: bool
    """Results are in other files."""
    finished: bool
    """There is a list of results, be it empty."""
    marked: bool
    """Some result says whether it was suppressed."""


@kit.stage("ingest.sarif", libraries=("pyarrow",))
class Sarif(kit.Stage, frozen=True):
    """Read findings of static analysis from SARIF 2.1.0, one row a result; several logs as one.

    What a tool does not say is missing. `suppressed` is true where somebody dismissed the finding
    and that was not rejected; `suppression_status` tells those that are still under review.
    """

    uri: Uris
    """A path, a pattern as `scans/*.sarif`, or a `file:`, `https:`, `s3:` … URI; of several, all
    are read. `.gz`, `.bz2` and `.xz` are unpacked."""

    def fingerprint(self, context: kit.Context) -> str | None:
        """Digest all logs, and their names: a pattern may stand for others tomorrow."""
        try:
            uris = self._uris(context)
        except sources.Missing:
            return "missing"
        found = sources.digests(uris, context.services)
        told = "\n".join([*uris, found or ""])
        return hashlib.sha256(told.encode()).hexdigest() if found is not None else None

    def run(self, context: kit.Context) -> Read:
        """Read every log, and put their results into one table."""
        import pyarrow as pa

        uris = self._uris(context)
        logs = []
        for number, uri in enumerate(uris):
            context.progress(number / len(uris), f"reading {sources.shown(uri)}")
            logs.append(_read(uri, context))
        table = pa.concat_tables([log.found for log in logs]).combine_chunks()
        if not table.num_rows:
            raise _nothing(logs)
        return Read(values.Table(table), _report(logs, table))

    def _uris(self, context: kit.Context) -> list[str]:
        given = [self.uri] if isinstance(self.uri, str) else self.uri
        each = (found for uri in given for found in sources.expand(uri, context.services))
        return list(dict.fromkeys(each))


def _read(uri: str, context: kit.Context) -> _Log:
    fetched = sources.fetch(uri, context)
    path, _ = sources.decompressed(uri, fetched, context)
    runs = scans.read(uri, path)
    context.check()
    return _Log(
        uri=uri,
        size=fetched.stat().st_size,
        found=findings.table(uri, runs),
        runs=len(runs),
        failed=any(map(_is_failed, runs)),
        elsewhere=any((run.external_property_file_references or {}).get("results") for run in runs),
        finished=any(run.results is not None for run in runs),
        marked=any(each.suppressions is not None for run in runs for each in run.results or []),
    )


def _is_failed(run: scans.Run) -> bool:
    return any(each.execution_successful is False for each in run.invocations or [])


def _nothing(logs: list[_Log]) -> NoResults:
    """Say why there is nothing: no run, a run that failed, results elsewhere, or a clean scan."""
    reason, hint = "the tool found nothing", "scan more, or with more rules"
    if not any(log.runs for log in logs):
        reason, hint = "there are no runs", "look at how the tool was started"
    elif any(log.elsewhere for log in logs):
        reason = "the results are in other files"
        hint = "let the tool write its results into the log itself"
    elif any(log.failed for log in logs):
        reason = "there are no results, for the tool's run failed"
        hint = "look at the log's notifications for what went wrong"
    elif not any(log.finished for log in logs):
        reason = "there are runs, but no results"
        hint = "look at whether the tool finished: a scan that finds nothing has an empty list"
    return NoResults([log.uri for log in logs], reason, hint)


def _report(logs: list[_Log], table: pa.Table) -> values.Report:
    rows, counts = table.num_rows, _counts(table)
    names = ", ".join(counts["tools"]) or "an unnamed tool"
    suppressed = _total(table)
    said = f"{rows} findings of {names}, {suppressed} suppressed, from {_from(logs)}"
    report = {"title": "Ingestion", "summary": said, "format": "sarif", "rows": rows}
    report |= {"columns": table.num_columns, "suppressed": suppressed, **counts}
    report |= {"bytes": sum(log.size for log in logs), "source": _from(logs)}
    return values.Report(report | {"sources": [*map(_row, logs)], "warnings": _warnings(logs)})


def _from(logs: list[_Log]) -> str:
    return sources.shown(logs[0].uri) if len(logs) == 1 else f"{len(logs)} logs"


def _counts(table: pa.Table) -> dict[str, Any]:
    """Count findings by tool and level, and the rules that they are about."""
    import pyarrow.compute as pc

    counted: dict[str, Any] = {}
    for key, name in (("tools", "tool"), ("levels", "level")):
        found = pc.value_counts(table[name].drop_null()).to_pylist()
        counted[key] = {each["values"]: each["counts"] for each in found}
    return counted | {"rules": pc.count_distinct(table["rule_id"]).as_py()}


def _total(table: pa.Table) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(table["suppressed"]).as_py() or 0)


def _row(log: _Log) -> dict[str, Any]:
    return {
        "source": sources.shown(log.uri),
        "runs": log.runs,
        "results": log.found.num_rows,
        "suppressed": _total(log.found),
        "bytes": log.size,
    }


def _warnings(logs: list[_Log]) -> list[str]:
    said = []
    for log in logs:
        where = sources.shown(log.uri)
        if log.failed:
            said.append(f"{where}: the tool says that its run failed; findings may be missing")
        if log.elsewhere:
            said.append(f"{where}: results that are in other files were not read")
        if not log.found.num_rows:
            said.append(f"{where}: no results")
    if not any(log.marked for log in logs):
        said.append("no log tells suppressions: `suppressed` is false throughout")
    return said
