"""Owns a Ray cluster with a real autoscaler, whose nodes are processes on this machine."""

from __future__ import annotations

import json
import pathlib

import psutil

from scripts import agents
from scripts.chaos_parts import ray_head

HEAD, HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"
"""As Ray's provider of local nodes names the head and its type."""
IDLE_MINUTES = 0.1
_EMPTY = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray")
STORE_BYTES = 80 * 2**20


class Elastic(ray_head.RayHead):
    """A head with one CPU; further nodes come and go as they are asked for."""

    def __init__(
        self,
        folder: pathlib.Path,
        idle_minutes: float = IDLE_MINUTES,
        **types: dict[str, float],
    ) -> None:
        file = folder / "autoscaler.yaml"
        own = {
            "PYTHONPATH": str(agents.ROOT),
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
            "RAY_NODE_TYPE_NAME": HEAD_TYPE,
        }
        super().__init__(folder, 1, own, (f"--autoscaling-config={file}",))
        file.write_text(json.dumps(_config(self.address, idle_minutes, types)))
        self.told = {name: value for name, value in self.env.items() if name not in own}
        """What an agent has in its environment."""

    def nodes(self) -> int:
        """Count the nodes."""
        return len(self._found("raylet"))


def type_of(pid: int) -> str:
    """Name the type of the node that a worker is on."""
    return psutil.Process(pid).environ()["RAY_NODE_TYPE_NAME"]


def _config(address: str, idle_minutes: float, types: dict[str, dict[str, float]]) -> dict:
    provider = {
        "type": "external",  # Ray's own name for it needs a file that its wheel lacks
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "gcs_address": address,
        "head_node_id": HEAD,
    }
    known = {HEAD_TYPE: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}}
    for name, has in types.items():
        resources = {**has, "object_store_memory": STORE_BYTES}
        known[name] = {"resources": resources, "node_config": {}, "max_workers": 1}
    return {
        "cluster_name": "elastic",
        "max_workers": len(types),
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 10,
        "provider": provider,
        "auth": {},
        "head_node_type": HEAD_TYPE,
        "available_node_types": known,
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in (*_EMPTY, "worker_start_ray")},
    }
