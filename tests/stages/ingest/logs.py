"""Owns small SARIF logs for the tests of the stage that reads them, and the reading."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import msgspec

from stages import kit
from stages.ingest import sarif


def context_of(folder: pathlib.Path, **services: Any) -> kit.Context:
    workdir = folder / "work"
    workdir.mkdir(exist_ok=True)
    return kit.Context(
        workdir=workdir, services=kit.Services(data_roots=(str(folder),), **services)
    )


def read(context: kit.Context, uri: str | list[str]) -> sarif.Read:
    return msgspec.convert({"uri": uri}, sarif.Sarif).run(context)


def root(context: kit.Context) -> pathlib.Path:
    return pathlib.Path(context.services.data_roots[0])


def log(*results: dict[str, Any], rules: tuple[dict[str, Any], ...] = (), **run: Any):
    tool = {"driver": {"name": "t", "version": "1", "rules": list(rules)}}
    runs = [{"tool": tool, "results": list(results)} | run]
    return {"version": "2.1.0", "runs": runs}


def rows(context: kit.Context, document: Any) -> list[dict[str, Any]]:
    (root(context) / "a.sarif").write_text(json.dumps(document), encoding="utf-8")
    return read(context, "a.sarif").table.arrow.to_pylist()


def row(context: kit.Context, result: dict[str, Any], **run: Any) -> dict[str, Any]:
    (found,) = rows(context, log(result, **run))
    return found


def at(uri: str | None = None, **more: Any) -> list[dict[str, Any]]:
    region = more.pop("region", {})
    place = ({} if uri is None else {"uri": uri}) | more
    return [{"physicalLocation": {"artifactLocation": place, "region": region}}]


def write(context: kit.Context, name: str, document: Any) -> pathlib.Path:
    path = root(context) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def told(document: Any) -> bytes:
    return json.dumps(document).encode()
