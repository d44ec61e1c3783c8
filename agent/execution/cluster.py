"""Owns the connection to Ray: one's own local cluster, or a configured one."""

from __future__ import annotations

import logging
import os
import pathlib
from typing import Any

import msgspec

from agent import config

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
    """
    remote = bool(settings.address)
    for name, value in (_ENVIRONMENT | ({} if remote else _LOOPBACK_ONLY)).items():
        os.environ.setdefault(name, value)
    import ray

    started = not ray.is_initialized()
    if started:
        data_dir.mkdir(parents=True, exist_ok=True)
        logging.getLogger("ray").setLevel(logging.WARNING)
        ray.init(
            log_to_driver=False,
            configure_logging=False,
            **({"address": settings.address} if remote else _local(settings)),
        )
    cpus = int(ray.cluster_resources().get("CPU", 1))
    return Cluster(ray.get_runtime_context().gcs_address, max(1, cpus), remote, started)


def close(cluster: Cluster) -> None:
    """Leave the cluster; a local one that was started here ends."""
    import ray

    if cluster.started and ray.is_initialized():
        ray.shutdown()


def _local(settings: config.Ray) -> dict[str, Any]:
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": settings.cpus,
        "object_store_memory": settings.object_store_bytes or _OBJECT_STORE_BYTES,
    }
