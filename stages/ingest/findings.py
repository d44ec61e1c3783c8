"""Owns the row of a table that a SARIF result makes, and the types of its columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from stages import sources
from stages.ingest import places, scans, tools

if TYPE_CHECKING:
    import pyarrow as pa

REJECTED = "rejected"
_COLUMNS = {
    "rule_id": "string",
    "rule_name": "string",
    "rule_description": "string",
    "level": "string",
    "severity": "string",
    "security_severity": "double",
    "confidence": "string",
    "kind": "string",
    "message": "string",
    "snippet": "string",
    "context": "string",
    "file": "string",
    "root": "string",
    "package": "string",
    "function": "string",
    "start_line": "int64",
    "end_line": "int64",
    "start_column": "int64",
    "end_column": "int64",
    "suppressed": "bool",
    "suppression_kind": "string",
    "suppression_status": "string",
    "suppression_reason": "string",
    "baseline_state": "string",
    "fingerprint": "string",
    "rank": "double",
    "cwe": "string",
    "tags": "string",
    "help_uri": "string",
    "tool": "string",
    "tool_version": "string",
    "run": "int64",
    "source": "string",
}
_SEVERITIES = ("issue_severity", "severity", "problem.severity")
_CONFIDENCES = ("issue_confidence", "confidence")
_PRECISION = ("precision",)
"""Of a rule as a whole; semgrep gives all its rules the same."""
_SCORES = ("security-severity", "security_severity")
_BANDS = ((9.0, "CRITICAL"), (7.0, "HIGH"), (4.0, "MEDIUM"), (0.0, "LOW"))
"""Of a score as in CVSS, from 0 to 10."""
_CONFIDENCE_TAG = re.compile(r"(\w+) confidence", re.IGNORECASE)
_CWE = re.compile(r"\bcwe[-_: /]*0*(\d{1,6})\b", re.IGNORECASE)
_LINE_HASH = "primaryLocationLineHash"
_NO_FINGERPRINT = "requires login"
"""What semgrep writes where it has none to give."""


def table(uri: str, runs: list[scans.Run]) -> pa.Table:
    """Make a table of the results of a log: a row each, in order, and every column of its type."""
    import pyarrow as pa

    types = {"string": pa.string(), "double": pa.float64(), "int64": pa.int64(), "bool": pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in _COLUMNS.items()])
    found: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for number, run in enumerate(runs):
        for row in _rows(run):
            row |= {"run": number, "source": sources.shown(uri)}
            for name, values in found.items():
                values.append(row.get(name))
    return pa.table(found, schema=schema)


def _rows(run: scans.Run) -> Iterator[dict[str, Any]]:
    rules, files = tools.Rules(run), places.Files(run)
    tool = {
        "tool": rules.driver.name,
        "tool_version": rules.driver.semantic_version or rules.driver.version,
    }
    for result in run.results or []:
        rule_id, rule = rules.of(result)
        found = files.find(result)
        yield {
            "rule_id": rule_id,
            "level": rules.level(result, rule),
            "kind": result.kind or "fail",
            "message": rules.message(result, rule),
            **found._asdict(),
            "package": places.package(found.file),
            "function": _function(result),
            "baseline_state": result.baseline_state,
            "fingerprint": _fingerprint(result),
            "rank": result.rank if result.rank is not None and result.rank >= 0 else None,
            **_described(rule),
            **_judged(result, rule),
            **_suppression(result.suppressions or []),
            **tool,
        }


def _described(rule: scans.Rule) -> dict[str, Any]:
    description = tools.said(rule.short_description) or tools.said(rule.full_description)
    return {"rule_name": rule.name, "rule_description": description, "help_uri": rule.help_uri}


def _judged(result: scans.Result, rule: scans.Rule) -> dict[str, Any]:
    """Gather what tools say in properties of their own: each has its own names for it."""
    given = [result.properties or {}, rule.properties or {}]
    tags = list(dict.fromkeys(tag for each in given for tag in _texts(each.get("tags"))))
    score = _number(_first(given, _SCORES))
    confidence = _first(given, _CONFIDENCES) or _tagged(tags) or _first(given, _PRECISION)
    return {
        "severity": _word(_first(given[:1], _SEVERITIES))
        or _band(score)
        or _word(_first(given, _SEVERITIES)),
        "security_severity": score,
        "confidence": _word(confidence),
        "cwe": _cwe(result, rule, [*tags, *(t for each in given for t in _weaknesses(each))]),
        "tags": ", ".join(tags) or None,
    }


def _first(given: list[dict[str, Any]], names: Iterable[str]) -> Any:
    """Give the first property of these names that says something; a result's before its rule's."""
    found = (each[name] for each in given for name in names if name in each)
    return next((value for value in found if _is_plain(value)), None)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""


def _word(value: Any) -> str | None:
    """Write a grade in one way, whichever tool it comes from: `high` is `HIGH`."""
    return re.sub(r"[ -]+", "_", str(value).strip().upper()) or None if value is not None else None


def _number(value: Any) -> float | None:
    try:
        score = float(value)
    except (TypeError, ValueError):
        return None
    return score if 0 <= score <= 10 else None  # noqa: PLR2004 - as in CVSS


def _band(score: float | None) -> str | None:
    return None if score is None else next(word for least, word in _BANDS if score >= least)


def _tagged(tags: list[str]) -> str | None:
    """Find a confidence among the tags, where semgrep writes it."""
    found = (match[1] for tag in tags if (match := _CONFIDENCE_TAG.fullmatch(tag)))
    return next(found, None)


def _texts(value: Any) -> list[str]:
    given = value if isinstance(value, list) else [value]
    return [each for each in given if isinstance(each, str)]


def _weaknesses(properties: dict[str, Any]) -> list[str]:
    """Give what a property says of CWEs: texts, or numbers alone."""
    value = properties.get("cwe", properties.get("CWE"))
    given = value if isinstance(value, list) else [value]
    numbers = [each for each in given if str(each).isdigit() and not isinstance(each, bool)]
    return [*_texts(value), *(f"cwe-{each}" for each in numbers)]


def _cwe(result: scans.Result, rule: scans.Rule, words: list[str]) -> str | None:
    """Gather the CWEs of tags, properties and taxonomies as `CWE-78`, in order."""
    targets = [*(result.taxa or []), *(r.target for r in rule.relationships or [] if r.target)]
    for target in targets:
        component = target.tool_component or scans.Component()
        named = (component.name or "").upper() == "CWE" and (target.id or "").isdigit()
        words.append(f"cwe-{target.id}" if named else target.id or "")
    numbers = {int(number) for word in words for number in _CWE.findall(word)}
    return ", ".join(f"CWE-{number}" for number in sorted(numbers)) or None


def _function(result: scans.Result) -> str | None:
    named = (each for place in result.locations or [] for each in place.logical_locations or [])
    return next((n for each in named if (n := each.fully_qualified_name or each.name)), None)


def _fingerprint(result: scans.Result) -> str | None:
    """Give what the tool tells one finding from another by, over time.

    Of several the last by name: names end with their version.
    """
    for given in (result.fingerprints, result.partial_fingerprints):
        told = {k: v for k, v in (given or {}).items() if isinstance(v, str) and v}
        told = {k: v for k, v in told.items() if v != _NO_FINGERPRINT}
        if told:
            key = next((k for k in told if k.startswith(_LINE_HASH)), max(told))
            return told[key]
    return None


def _suppression(given: list[scans.Suppression]) -> dict[str, Any]:
    """Tell whether somebody dismissed a finding; a dismissal that was rejected is none."""
    held = [each for each in given if each.status != REJECTED]
    shown = next(iter([*held, *given]), scans.Suppression())
    return {
        "suppressed": bool(held),
        "suppression_kind": shown.kind,
        "suppression_status": (shown.status or "accepted") if given else None,
        "suppression_reason": shown.justification,
    }
