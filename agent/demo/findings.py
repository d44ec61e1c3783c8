"""Owns the demo's findings: SARIF of installed packages, labelled by their maintainers' marks."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from agent.demo import once

PACKAGES = {
    "narwhals": "narwhals",
    "smart_open": "smart-open",
    "formulaic": "formulaic",
    "bandit": "bandit",
    "jsonschema": "jsonschema",
    "stevedore": "stevedore",
    "opencensus": "opencensus",
    "tqdm": "tqdm",
    "attr": "attrs",
    "setuptools": "setuptools",
    "pyasn1": "pyasn1",
    "PIL": "pillow",
    "threadpoolctl": "threadpoolctl",
}
"""Import name to distribution. Each holds at least one triage mark: somebody there reads the
findings of a security linter, so that an unmarked finding was not waved through unseen."""

_NOSEC = re.compile(r"#\s*nosec\b:?\s*((?:B\d{3}[\s,]*)*)")
_NOQA = re.compile(r"#\s*noqa:\s*((?:[A-Z]+\d+[\s,]*)+)")

_MARK = re.compile(r"#\s*(nosec|noqa).*$")
"""For the closing line of a long string, where a fragment does not show that a string is open."""


class ScanFailed(Exception):
    """The analyser could not be run."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"bandit failed: {reason}")


def write(folder: pathlib.Path) -> pathlib.Path:
    """Write `findings.sarif`, unless it is there already for these very versions."""
    versions = _versions()
    target = folder / "findings.sarif"

    def make() -> None:
        document = _scan(versions)
        target.write_text(json.dumps(document, indent=1, sort_keys=True), encoding="utf-8")

    return once.made(target, versions, make)


def is_marked(rule: str, lines: Iterable[str]) -> bool:
    """Tell whether a maintainer dismissed this rule on one of these lines.

    `# nosec` alone dismisses every rule, with ids only those; `# noqa` counts only where it names
    the rule under its other number (S101 is B101), since a bare one may be about anything.
    """
    return any(_marks(rule, line) for line in lines)


def _marks(rule: str, line: str) -> bool:
    nosec = _NOSEC.search(line)
    if nosec:
        named = re.findall(r"B\d{3}", nosec.group(1))
        return not named or rule in named
    noqa = _NOQA.search(line)
    return noqa is not None and f"S{rule[1:]}" in re.findall(r"[A-Z]+\d+", noqa.group(1))


def without_comments(code: str) -> str:
    """Remove comments from a fragment of Python: a mark, or its reason, would give the label."""
    return "\n".join(_MARK.sub("", _before_comment(line)).rstrip() for line in code.splitlines())


def _before_comment(line: str) -> str:
    quote = ""
    for position, char in enumerate(line):
        if quote:
            quote = "" if char == quote and line[position - 1 : position] != "\\" else quote
        elif char in "\"'":
            quote = char
        elif char == "#":
            return line[:position]
    return line


def _versions() -> dict[str, str]:
    names = {*PACKAGES.values(), "bandit"}
    return {"rule": "1"} | {name: importlib.metadata.version(name) for name in sorted(names)}


def _scan(versions: dict[str, str]) -> dict[str, Any]:
    places = {name: _place(name) for name in PACKAGES}
    halves = [sorted(places.values())[i::2] for i in range(2)]
    documents = [_finish(process) for process in [_start(half) for half in halves]]
    document = documents[0]
    (run,) = document["runs"]
    found = [result for each in documents for result in each["runs"][0]["results"]]
    for result in found:
        result.pop("ruleIndex", None)
        _label(result)
    run["results"] = sorted(found, key=_order)
    run["tool"]["driver"]["rules"] = _rules(documents)
    document["runs"] = [
        {"tool": run["tool"], "results": run["results"], "properties": {"packages": versions}}
    ]
    return document


def _place(name: str) -> pathlib.Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ScanFailed(f"package {name!r} is not installed; install the extra 'demo'")
    origin = pathlib.Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def _start(places: list[pathlib.Path]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bandit", "--ignore-nosec", "-q", "-r", "-f", "sarif"]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [*command, *map(str, places)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate()
    if process.returncode not in (0, 1):  # 1 says that there are findings
        raise ScanFailed(err.strip()[-500:])
    document: dict[str, Any] = json.loads(out)
    return document


def _label(result: dict[str, Any]) -> None:
    location = result["locations"][0]["physicalLocation"]
    path = pathlib.Path(location["artifactLocation"]["uri"].removeprefix("file://"))
    region = location["region"]
    covered = _statement(path, region["startLine"], region.get("endLine", region["startLine"]))
    marked = is_marked(result["ruleId"], covered)
    result["suppressions"] = [{"kind": "inSource", "status": "accepted"}] if marked else []
    location["artifactLocation"]["uri"] = _relative(path)
    for part in _regions(location):
        if "snippet" in part:
            part["snippet"]["text"] = without_comments(part["snippet"]["text"])


def _statement(path: pathlib.Path, first: int, last: int) -> list[str]:
    """Give the lines of the whole statement: the analyser's region ends with its second line."""
    code = path.read_text(encoding="utf-8", errors="replace")
    ends = [
        node.end_lineno or last
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.stmt) and not hasattr(node, "body")
        if node.lineno <= first <= (node.end_lineno or node.lineno)
    ]
    return code.splitlines()[first - 1 : max([last, *ends])]


def _regions(location: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (location[name] for name in ("region", "contextRegion") if name in location)


def _relative(path: pathlib.Path) -> str:
    parts = path.parts
    return "/".join(
        parts[parts.index("site-packages") + 1 :] if "site-packages" in parts else parts
    )


def _order(result: dict[str, Any]) -> tuple[str, int, str]:
    location = result["locations"][0]["physicalLocation"]
    return location["artifactLocation"]["uri"], location["region"]["startLine"], result["ruleId"]


def _rules(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    each = (r for d in documents for r in d["runs"][0]["tool"]["driver"].get("rules", []))
    return [rule for _, rule in sorted({rule["id"]: rule for rule in each}.items())]
