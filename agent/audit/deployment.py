"""Owns the checks of a deployment: its bus, its cluster, its files, its settings, what it keeps."""

from __future__ import annotations

import asyncio
import ipaddress
import pathlib
import stat
import urllib.parse
from collections.abc import Callable, Iterable, Iterator

import msgspec
import nats.errors

from agent import address, config, layers
from agent.audit import advisories, findings, kept, leaks, ports
from protocol import credentials, pipelines

Found = Iterable[findings.Finding]
_CONNECT_S = 3.0
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OWN_FILES = (address.FILE, "ray-token", "serving/ray-token", "nats/token", "nats/nats.conf")
"""In the data folder."""
_ENCRYPTED = {"https", "wss", "tls"}
_FILES = (".toml", ".yaml", ".yml")


class Deployment(msgspec.Struct, frozen=True):
    """What is audited."""

    loaded: layers.Loaded
    bus_url: str = ""
    """Of a running agent's bus, or the configured one."""
    accepted: tuple[tuple[str, pipelines.Pipeline], ...] = ()
    """Runs and their pipelines, as the journals have them."""
    advisories: str = advisories.OSV
    """A URL, a file, or nothing."""

    @property
    def settings(self) -> config.Settings:
        """Give the settings."""
        return self.loaded.settings


def examine(deployment: Deployment) -> list[findings.Finding]:
    """Carry out every check of a deployment."""
    return findings.carry_out(CHECKS, deployment)


def _bus_lets_nobody_in(deployment: Deployment) -> Found:
    if not deployment.bus_url:
        why = "no agent is running and no bus is configured"
        yield findings.Finding("bus/unchecked", "info", "nats.url", why, "start it: mlpm up")
        return
    for server in _servers(deployment.bus_url):
        yield from asyncio.run(_asked(server, deployment.settings.nats.tls_ca))


async def _asked(server: str, tls_ca: str | None) -> list[findings.Finding]:
    """Try to connect as nobody."""
    plain = credentials.plain(server)
    who = credentials.Credentials(tls_ca=tls_ca)
    once = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0.1}
    try:
        async with asyncio.timeout(_CONNECT_S):
            nobody = await credentials.connect(plain, who, error_cb=_quiet, **once)
    except credentials.CredentialsError:
        return []
    except (nats.errors.Error, OSError, TimeoutError) as error:
        why = f"the bus could not be asked: {type(error).__name__} {error}".strip()
        return [findings.Finding("bus/unchecked", "info", plain, why, "start it, or mend nats.url")]
    await nobody.close()
    why = "the bus lets in who shows no key: anybody can ask for runs, approve them, forge journals"
    mend = "configure users on the server: `mlpm permissions --format conf` writes them"
    return [findings.Finding("bus/open", "high", plain, why, mend)]


async def _quiet(_: Exception) -> None:
    """Print nothing: the caller judges what it meets."""


def _bus_is_encrypted(deployment: Deployment) -> Found:
    nats_ = deployment.settings.nats
    for server in _servers(deployment.bus_url):
        parts = urllib.parse.urlsplit(server)
        if parts.scheme in _ENCRYPTED or nats_.tls_ca or nats_.tls_cert or _is_here(parts.hostname):
            continue
        why = "what goes to another machine is not encrypted: data, and keys that are not nkeys"
        mend = "give the server TLS, and write tls:// in nats.url or set nats.tls_ca"
        yield findings.Finding("bus/plaintext", "high", credentials.plain(server), why, mend)


def _services_are_encrypted(deployment: Deployment) -> Found:
    settings = deployment.settings
    named = {"tracking.uri": settings.tracking.uri, "artifacts.uri": settings.artifacts.uri}
    for key, url in named.items():
        parts = urllib.parse.urlsplit(url)
        if parts.scheme == "http" and not _is_here(parts.hostname):
            why = f"{config.redact(url)} is reached without encryption, and unproved to be itself"
            yield findings.Finding("services/plaintext", "medium", key, why, "use https:")


def _cluster_is_closed(deployment: Deployment) -> Found:
    ray = deployment.settings.ray
    if ":" in ray.address:
        from agent.execution import cluster

        if cluster.door(ray.address) == "open":
            why = "the Ray cluster asks for no token: whoever reaches it can run anything there"
            mend = "start it with RAY_AUTH_MODE=token, and give the agent its RAY_AUTH_TOKEN_PATH"
            yield findings.Finding("ray/open", "high", ray.address, why, mend)
    if ray.allow_open:
        why = "a Ray cluster that asks for no token would be joined"
        mend = "start the cluster with RAY_AUTH_MODE=token, and take the setting away"
        yield findings.Finding("ray/open-allowed", "medium", "ray.allow_open", why, mend)


def _cluster_listens_here_alone(_: Deployment) -> Found:
    return ports.exposed()


def _predictions_are_for_this_machine(deployment: Deployment) -> Found:
    where = deployment.settings.serving.host
    if not _is_here(where):
        why = "whoever reaches the serving host may ask deployed models, unencrypted"
        mend = "set serving.host to 127.0.0.1, with something before it that knows who is allowed"
        yield findings.Finding("serving/open", "medium", "serving.host", why, mend)


def _secret_files_are_closed(deployment: Deployment) -> Found:
    settings = deployment.settings
    for path in settings.secret_files():
        if not path.is_file():
            why, mend = "there is no such file", "mend its path in the configuration"
            yield findings.Finding("files/missing", "medium", str(path), why, mend)
        else:
            yield from _exposed(path, stat.S_IRWXO)  # a group of services may share one
    for name in _OWN_FILES:
        if (path := settings.data_path / name).is_file():
            yield from _exposed(path, _OTHERS)


def _exposed(path: pathlib.Path, to: int) -> Found:
    if _mode(path) & to:
        why = f"others of this machine can read what lets in (mode {_mode(path):04o})"
        yield findings.Finding("files/exposed", "high", str(path), why, f"chmod 600 {path}")


def _data_folder_is_closed(deployment: Deployment) -> Found:
    folder = deployment.settings.data_path
    if folder.is_dir() and _mode(folder) & _OTHERS:
        writable = _mode(folder) & (stat.S_IWGRP | stat.S_IWOTH)
        why = f"others of this machine can enter the data folder (mode {_mode(folder):04o})"
        severity: findings.Severity = "high" if writable else "medium"
        yield findings.Finding("files/exposed", severity, str(folder), why, f"chmod 700 {folder}")


def _configuration_holds_no_secret(deployment: Deployment) -> Found:
    for key, value in deployment.loaded.values.items():
        what = leaks.in_text(str(value.value)) if value.value else None
        if what and value.source.endswith(_FILES):
            mend = "keep it in a file of its own (nats.credentials, nats.nkey_seed), or set it as "
            mend += f"{layers.ENV_PREFIX}{key.upper().replace('.', '__')}"
            why = f"{value.source} holds {what}"
            yield findings.Finding("configuration/secret", "high", key, why, mend)
        elif what and value.source.startswith("flag"):
            mend = "give it in the environment: everybody sees the flags of a process"
            why = f"{value.source} holds {what}"
            yield findings.Finding("configuration/secret", "high", key, why, mend)


def _access_is_narrow(deployment: Deployment) -> Found:
    access = deployment.settings.access
    for root in access.data_roots:
        path = pathlib.Path(root).resolve()
        if path in {pathlib.Path("/"), pathlib.Path.home(), pathlib.Path("/home")}:
            why, mend = f"every pipeline can read all of {path}", "name the folders with data alone"
            yield findings.Finding("access/wide-root", "high", "access.data_roots", why, mend)
    if "*" in access.secrets:
        why = "a pipeline can refer to any environment variable and any file as a secret"
        mend = "name patterns, as MLPM_SECRET_*"
        yield findings.Finding("access/any-secret", "high", "access.secrets", why, mend)
    if "http" in access.allowed_schemes:
        why = "data may be read without encryption, as anybody on the way wants it to be"
        mend = "take http out of access.allowed_schemes"
        yield findings.Finding("access/plaintext", "low", "access.allowed_schemes", why, mend)
    if not access.allowed_hosts and {"http", "https"} & set(access.allowed_schemes):
        why = "a pipeline can reach every public host, and send it what it has read"
        mend = "name the hosts that may be reached in access.allowed_hosts"
        yield findings.Finding("access/any-host", "low", "access.allowed_hosts", why, mend)


def _accepted_pipelines_hold_no_secret(deployment: Deployment) -> Found:
    for run, pipeline in deployment.accepted:
        for path, what in leaks.in_data(msgspec.to_builtins(pipeline)):
            mend = (
                "change the secret, then refer to it: env, file or kv; journals are not rewritten"
            )
            why = f"the journal holds {what}"
            yield findings.Finding("pipeline/secret", "high", f"{run} {path}", why, mend)


def _artifacts_hold_no_pickle(deployment: Deployment) -> Found:
    return kept.in_store(deployment.settings, deployment.bus_url)


def _registry_holds_no_pickle(deployment: Deployment) -> Found:
    return kept.in_registry(deployment.settings)


def _packages_have_no_known_weakness(deployment: Deployment) -> Found:
    source = deployment.advisories
    return advisories.look_up(source, advisories.installed()) if source else ()


def _servers(urls: str) -> Iterator[str]:
    for each in urls.split(","):
        if text := each.strip():
            yield text if "//" in text else f"nats://{text}"


def _is_here(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def _mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


CHECKS: tuple[Callable[[Deployment], Found], ...] = (
    _bus_lets_nobody_in,
    _bus_is_encrypted,
    _services_are_encrypted,
    _cluster_is_closed,
    _cluster_listens_here_alone,
    _predictions_are_for_this_machine,
    _secret_files_are_closed,
    _data_folder_is_closed,
    _configuration_holds_no_secret,
    _access_is_narrow,
    _accepted_pipelines_hold_no_secret,
    _artifacts_hold_no_pickle,
    _registry_holds_no_pickle,
    _packages_have_no_known_weakness,
)
