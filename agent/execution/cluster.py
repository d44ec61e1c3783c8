"""Owns the connection to Ray: one's own local cluster, or a configured one.

Whoever reaches a cluster that asks for no token can run anything there (CVE-2023-48022): ours asks
for one, and another's that does not is refused.
"""

from __future__ import annotations

import logging
import os
import pathlib
import secrets
from typing import Any, Literal

import msgspec

from agent import config, private

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
"""Ray reads these when it is imported; what the operator has set stays."""
_LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray take 127.0.0.1 as the node's address, which `_node_ip_address` cannot."""
_OBJECT_STORE_BYTES = 256 * 2**20
"""Data travels through the artifact store; Ray's own store only carries what training shares."""
_TOKEN_MODE, _TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TOKEN_FILE = "ray-token"  # noqa: S105 - a name
"""In the data folder; Ray's own would be open to every user of the machine."""
Door = Literal["open", "shut", "silent"]
_ASKED = {"ray": "/ray.rpc.RayletDriver/ClusterInfo"}
_ASKED_OF_GCS = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_ASKED_FOR_S = 5.0


class OpenCluster(Exception):
    """A Ray cluster lets anybody in."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the Ray cluster at {address} asks for no token, so that whoever reaches it can run "
            "anything there: start it with RAY_AUTH_MODE=token and give this agent the same "
            "RAY_AUTH_TOKEN_PATH, or set ray.allow_open to join it all the same"
        )
        self.address = address


class TokenRefused(Exception):
    """A Ray cluster asks for a token, and this agent has none or a wrong one."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"the Ray cluster at {address} does not take this agent's token: set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with the cluster's own"
        )
        self.address = address


class Cluster(msgspec.Struct, frozen=True):
    """A cluster that this process is connected to."""

    address: str
    """`host:port`, for other drivers."""
    cpus: int
    remote: bool
    """It was there before: it is left running."""
    started: bool = True
    """The connection was made here, so it is closed here."""


def start(settings: config.Ray, data_dir: pathlib.Path) -> Cluster:
    """Connect to the configured cluster, or start a local one that ends with this process.

    Blocks for some seconds. A connection that the process already has is used and left alone.
    Raises OpenCluster or TokenRefused for another's cluster.
    """
    remote = bool(settings.address)
    for name, value in (_ENVIRONMENT | ({} if remote else _LOOPBACK_ONLY)).items():
        os.environ.setdefault(name, value)
    import ray

    started = not ray.is_initialized()
    if started:
        if not remote:
            _lock(data_dir)
        data_dir.mkdir(parents=True, exist_ok=True)
        logging.getLogger("ray").setLevel(logging.WARNING)
        options = {"address": settings.address} if remote else _local(settings)
        _join(options, settings)
    cpus = int(ray.cluster_resources().get("CPU", 1))
    return Cluster(ray.get_runtime_context().gcs_address, max(1, cpus), remote, started)


def close(cluster: Cluster) -> None:
    """Leave the cluster; a local one that was started here ends."""
    import ray

    if cluster.started and ray.is_initialized():
        ray.shutdown()


def door(address: str) -> Door:
    """Tell whether a cluster answers who has no token, asks for one, or says nothing."""
    import grpc  # type: ignore[import-untyped]

    scheme, _, place = address.rpartition("://")
    with grpc.insecure_channel(place) as channel:
        ask = channel.unary_unary(_ASKED.get(scheme, _ASKED_OF_GCS))
        try:
            ask(b"", timeout=_ASKED_FOR_S)
        except grpc.RpcError as error:
            known: dict[Any, Door] = {
                grpc.StatusCode.UNAUTHENTICATED: "shut",
                grpc.StatusCode.UNAVAILABLE: "silent",
                grpc.StatusCode.DEADLINE_EXCEEDED: "silent",
            }
            return known.get(error.code(), "open")
    return "open"


def _lock(data_dir: pathlib.Path) -> None:
    """Have the local cluster, and all that joins it from here, ask for a token."""
    os.environ[_TOKEN_MODE] = "token"
    if not os.environ.get(_TOKEN) and not os.environ.get(TOKEN_PATH):
        file = (data_dir / TOKEN_FILE).resolve()
        private.folder(file.parent)
        private.write(file, secrets.token_hex(32).encode())
        os.environ[TOKEN_PATH] = str(file)
    from ray import _raylet

    # Ray reads these when it is imported, which a module with stages may have done before.
    core: Any = _raylet
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()


def _join(options: dict[str, Any], settings: config.Ray) -> None:
    import ray

    named = ":" in settings.address
    if named:
        _refuse_open(settings.address, settings)
    try:
        ray.init(log_to_driver=False, configure_logging=False, **options)
    except (ray.exceptions.AuthenticationError, ConnectionError) as error:
        if named and door(settings.address) == "shut":
            raise TokenRefused(settings.address) from error
        raise
    if settings.address and not named:  # as `auto`: found by Ray alone
        try:
            _refuse_open(ray.get_runtime_context().gcs_address, settings)
        except OpenCluster:
            ray.shutdown()
            raise


def _refuse_open(address: str, settings: config.Ray) -> None:
    if not settings.allow_open and door(address) == "open":
        raise OpenCluster(address)


def _local(settings: config.Ray) -> dict[str, Any]:
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": settings.cpus,
        "object_store_memory": settings.object_store_bytes or _OBJECT_STORE_BYTES,
    }
