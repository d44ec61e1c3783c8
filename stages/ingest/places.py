"""Owns where a SARIF finding is: its file below the root of what was scanned, lines and code."""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple
from urllib import parse

from stages.ingest import scans, tools

_MOST = 2**31
_DRIVE = re.compile(r"/?[A-Za-z]:[\\/]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""Of two letters at least: one letter is a drive."""
_INSTALLED = ("site-packages", "dist-packages", "node_modules")


class Found(NamedTuple):
    """The place of a finding, as far as it is told."""

    file: str | None = None
    root: str | None = None
    start_line: int | None = None
    end_line: int | None = None
    start_column: int | None = None
    end_column: int | None = None
    snippet: str | None = None
    context: str | None = None


class Files:
    """The files of one run: what they are relative to, and their content where it is kept."""

    def __init__(self, run: scans.Run) -> None:
        self._bases = run.original_uri_base_ids or {}
        self._artifacts = run.artifacts or []
        roots = (self._base(name)[1] for name in self._bases)
        self._roots = [root for root in roots if root and root != "/"]
        self._texts: dict[str, list[str]] = {}

    def find(self, result: scans.Result) -> Found:
        """Give the first place of a result; others of it are seldom told, and less to the point."""
        physical = next(
            (p for each in result.locations or [] if (p := each.physical_location)), None
        )
        if physical is None:
            return Found()
        place = physical.artifact_location or scans.Place()
        region = physical.region or scans.Region()
        file, root = self._file(place)
        start, end = _line(region.start_line), _line(region.end_line)
        around = _code(physical.context_region)
        own = _code(region) or self._lines(place, start, end or start)
        columns = (_line(region.start_column), _line(region.end_column))
        return Found(file, root, start, end or start, *columns, own or around, around)

    def _file(self, place: scans.Place) -> tuple[str | None, str | None]:
        """Give a file's path below its root, and the root; below nothing it is as it was told."""
        artifact = self._artifact(place)
        if place.uri is None and artifact and artifact.location:
            place = artifact.location
        if not place.uri:
            return None, None
        if not _is_relative(place.uri):
            return self._below(_path(place.uri))
        before, root = self._base(place.uri_base_id)
        return posixpath.normpath(before + _path(place.uri)), root

    def _base(self, name: str | None) -> tuple[str, str | None]:
        """Follow a base to the one that is not relative to another: give the way, and that one."""
        way, seen = "", set()
        while name and name not in seen and (base := self._bases.get(name)):
            seen.add(name)
            folder = _path(base.uri or "")
            folder += "/" if folder and not folder.endswith("/") else ""
            if base.uri and not _is_relative(base.uri):
                return way, folder
            way, name = folder + way, base.uri_base_id
        return way, None

    def _below(self, path: str) -> tuple[str, str | None]:
        root = max((r for r in self._roots if path.startswith(r)), key=len, default="")
        return path.removeprefix(root), root or None

    def _artifact(self, place: scans.Place) -> scans.Artifact | None:
        index = place.index
        if index is None or not 0 <= index < len(self._artifacts):
            return None
        return self._artifacts[index]

    def _lines(self, place: scans.Place, start: int | None, end: int | None) -> str | None:
        """Take lines from the file's content, where the log carries it."""
        artifact = self._artifact(place)
        if start is None or end is None or artifact is None:
            return None
        content = tools.said(artifact.contents)
        if not content:
            return None
        key = str(place.index)
        if key not in self._texts:
            self._texts[key] = content.splitlines()
        return "\n".join(self._texts[key][start - 1 : end]) or None


def package(file: str | None) -> str | None:
    """Name the package that a file belongs to: as it is installed, or the first of its folders."""
    if file is None:
        return None
    parts = file.split("/")
    for place in reversed(range(len(parts) - 1)):
        if parts[place] in _INSTALLED:
            return parts[place + 1].removesuffix(".py")
    absolute = not parts[0] or parts[0] == ".." or _DRIVE.match(file) or _SCHEME.match(file)
    return None if absolute or len(parts) == 1 else parts[0]


def _is_relative(uri: str) -> bool:
    return not (uri.startswith(("/", "\\")) or _DRIVE.match(uri) or _SCHEME.match(uri))


def _path(uri: str) -> str:
    """Write a URI as a path with slashes; one that leads to no file stays as it is."""
    if _DRIVE.match(uri):
        return parse.unquote(uri.lstrip("/")).replace("\\", "/")
    if not _SCHEME.match(uri):
        return parse.unquote(uri).replace("\\", "/")
    if not uri.lower().startswith("file:"):
        return uri
    host, _, rest = uri[len("file:") :].removeprefix("//").partition("/")
    path = parse.unquote(f"/{rest}").replace("\\", "/")
    if host not in ("", "localhost"):
        return f"//{host}{path}"
    return path.lstrip("/") if _DRIVE.match(path) else path


def _line(number: float | None) -> int | None:
    """Give a line or column: they are counted from one, and what is no count is not told."""
    return int(number) if number is not None and 1 <= number < _MOST else None


def _code(region: scans.Region | None) -> str | None:
    return (tools.said(region.snippet) or None) if region else None
