"""Owns the look into stored files: pickles among the artifacts and in the model registry."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, cast

from agent import config
from agent.audit import findings, pickles
from protocol import permissions

RULE = "model/pickle"
_SQLITE = "sqlite:///"
_MEND = "nothing of ours loads it: find out who put it there, then delete it"


def in_store(settings: config.Settings, bus_url: str) -> Iterator[findings.Finding]:
    """Look at every blob of the artifact store."""
    from agent.artifacts import objects

    access = objects.access(bus_url, settings.nats, permissions.OPERATOR)
    system, root = objects.file_system(settings.artifacts_uri, access)
    for path in system.find(root):
        with system.open(path, "rb") as file:
            yield from _found(pickles.reasons(file), str(path))


def in_registry(settings: config.Settings) -> Iterator[findings.Finding]:
    """Look at the files of every registered model."""
    uri = settings.tracking_uri
    if uri.startswith(_SQLITE) and not pathlib.Path(uri.removeprefix(_SQLITE)).exists():
        return
    from stages.register import champions

    registry = champions.client(uri)
    for version in _versions(registry):
        yield from _in_version(version, uri)


def _versions(registry: Any) -> Iterator[Any]:
    token = None
    while True:
        page = registry.search_model_versions(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _in_version(version: Any, tracking_uri: str) -> Iterator[findings.Finding]:
    from mlflow import artifacts

    where = f"{version.name} version {version.version}"
    with tempfile.TemporaryDirectory() as folder:
        place = artifacts.download_artifacts(
            artifact_uri=version.source, dst_path=folder, tracking_uri=tracking_uri
        )
        for path in sorted(pathlib.Path(place).rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    yield from _found(pickles.reasons(cast("Any", file), path.name), where)


def _found(reasons: list[str], where: str) -> Iterator[findings.Finding]:
    for reason in reasons:
        yield findings.Finding(RULE, "high", where, f"{reason}, which runs what it holds", _MEND)
