"""Owns the writing of findings as a SARIF 2.1.0 log."""

from __future__ import annotations

import pathlib
from typing import Any

from agent.audit import findings

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"high": "error", "medium": "warning", "low": "note", "info": "none"}
_SCORES = {"high": "8.0", "medium": "5.0", "low": "2.0", "info": "0.0"}
"""What viewers of SARIF take for `security-severity`."""


def log(found: list[findings.Finding], version: str, file: pathlib.Path | None) -> dict[str, Any]:
    """Make a log of one run; `file` is what was audited, if it was a file."""
    rules = list(dict.fromkeys(each.rule for each in found))
    driver = {"name": "mlpm-audit", "version": version, "rules": [_rule(r, found) for r in rules]}
    results = [_result(each, rules.index(each.rule), file) for each in found]
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(name: str, found: list[findings.Finding]) -> dict[str, Any]:
    first = next(each for each in found if each.rule == name)
    return {
        "id": name,
        "shortDescription": {"text": name.replace("/", ": ").replace("-", " ")},
        "help": {"text": first.mend or first.why},
        "properties": {"security-severity": _SCORES[first.severity], "tags": ["security"]},
    }


def _result(each: findings.Finding, index: int, file: pathlib.Path | None) -> dict[str, Any]:
    place: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": each.where}]}
    if file is not None:
        place["physicalLocation"] = {
            "artifactLocation": {"uri": file.as_posix()},
            "region": {"startLine": each.line or 1},
        }
    text = f"{each.why}. To mend it: {each.mend}" if each.mend else each.why
    return {
        "ruleId": each.rule,
        "ruleIndex": index,
        "kind": "fail" if each.severity != "info" else "informational",
        "level": _LEVELS[each.severity],
        "message": {"text": text},
        "locations": [place],
        "properties": {"severity": each.severity},
    }
