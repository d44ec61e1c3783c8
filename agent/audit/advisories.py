"""Owns what is known of the installed packages' weaknesses: from OSV's API or pip-audit's file."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agent.audit import findings

if TYPE_CHECKING:
    import httpx

OSV = "https://api.osv.dev"
RULE, UNREACHABLE = "dependency/vulnerable", "dependency/unchecked"
_TIMEOUT_S = 10.0
_BATCH = 500
_SEVERITIES: dict[str, findings.Severity] = {
    "CRITICAL": "high",
    "HIGH": "high",
    "MODERATE": "medium",
    "MEDIUM": "medium",
    "LOW": "low",
}


def installed() -> dict[str, str]:
    """Give the version of every installed distribution, without what is local to a build."""
    each = importlib.metadata.distributions()
    return {one.metadata["Name"].lower(): one.version.partition("+")[0] for one in each}


def look_up(source: str, packages: dict[str, str]) -> list[findings.Finding]:
    """Ask OSV at a URL, or read a file that `pip-audit --format json` has written."""
    if source.startswith(("http://", "https://")):
        return _asked(source.rstrip("/"), packages)
    return list(_read(pathlib.Path(source)))


def _asked(url: str, packages: dict[str, str]) -> list[findings.Finding]:
    import httpx

    try:
        with httpx.Client(base_url=url, timeout=_TIMEOUT_S) as web:
            return list(_from_osv(web, packages))
    except (httpx.HTTPError, ValueError) as error:
        why = f"no database of advisories answers at {url} ({error or type(error).__name__})"
        mend = "name one that can be reached, or a file of pip-audit's: --advisories URL-OR-FILE"
        return [findings.Finding(UNREACHABLE, "info", "the installed packages", why, mend)]


def _from_osv(web: httpx.Client, packages: dict[str, str]) -> Iterator[findings.Finding]:
    names = sorted(packages)
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        answers = _json(web.post("/v1/querybatch", json={"queries": _queries(batch, packages)}))
        for name, answer in zip(batch, answers["results"], strict=True):
            for known in answer.get("vulns") or []:
                told = _json(web.get(f"/v1/vulns/{known['id']}"))
                if "withdrawn" not in told:
                    yield _of_osv(name, packages[name], told)


def _queries(names: list[str], packages: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": packages[name]}
        for name in names
    ]


def _json(answer: httpx.Response) -> Any:
    return answer.raise_for_status().json()


def _of_osv(name: str, version: str, told: dict[str, Any]) -> findings.Finding:
    said = str((told.get("database_specific") or {}).get("severity", "")).upper()
    fixed = [
        event["fixed"]
        for affected in told.get("affected") or []
        if (affected.get("package") or {}).get("name", "").lower() == name
        for each in affected.get("ranges") or []
        if each.get("type") != "GIT"
        for event in each.get("events") or []
        if "fixed" in event
    ]
    summary = told.get("summary") or str(told.get("details", "")).partition("\n")[0][:200]
    return _finding((name, version), told["id"], summary, fixed, _SEVERITIES.get(said, "medium"))


def _read(file: pathlib.Path) -> Iterator[findings.Finding]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        listed = told["dependencies"] if isinstance(told, dict) else told
    except (OSError, ValueError, KeyError) as error:
        why = f"{file} is no file of pip-audit's ({type(error).__name__}: {error})"
        mend = "write it where there is a network: pip-audit --format json --output FILE"
        yield findings.Finding(UNREACHABLE, "info", str(file), why, mend)
        return
    for one in listed:
        for known in one.get("vulns") or []:
            summary = str(known.get("description") or "").partition("\n")[0][:200]
            fixed = known.get("fix_versions") or []
            package = one["name"], one["version"]
            yield _finding(package, known["id"], summary, fixed, "medium")


def _finding(
    package: tuple[str, str],
    key: str,
    summary: str,
    fixed: list[str],
    severity: findings.Severity,
) -> findings.Finding:
    name, version = package
    why = f"{name} {version} has the known weakness {key}" + (f": {summary}" if summary else "")
    mend = f"install {name} {' or '.join(dict.fromkeys(fixed))}" if fixed else "there is no fix yet"
    return findings.Finding(RULE, severity, f"{name}=={version}", why, mend)
