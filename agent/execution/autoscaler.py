"""Owns the talk with Ray's autoscaler: whether there is one, what it is asked for, what it says.

It is asked by placement groups that hold nothing yet. They add up with what others on the cluster
ask for, are given as far as can be, and end with their driver. (`request_resources` is one for the
whole cluster, and brings nothing at all where it asks for more than there may be.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.execution import hands

_HEAD = "node:__internal_head__"
_ANSWER_S = 5.0


class Bundle(msgspec.Struct, frozen=True):
    """What one attempt needs on one node."""

    cpu: float
    shape: hands.Shape = hands.COMMON

    def resources(self) -> dict[str, float]:
        """Say it as Ray does."""
        needs = {"CPU": self.cpu, "GPU": self.shape.gpu, "memory": self.shape.memory_bytes}
        return {name: amount for name, amount in needs.items() if amount}


class Seen(msgspec.Struct, frozen=True):
    """What the cluster and its autoscaler say."""

    starting: bool
    """Nodes are on their way."""
    hopeless: frozenset[str]
    """The groups that no node type can give, or that it may give no more of."""
    given: frozenset[str]
    """The groups that there is room for."""


def is_there(address: str) -> bool:
    """Tell whether the cluster has one: it reports to the head, and its nodes are of a type.

    It is the one that `ray up` and KubeRay start; the one before it reports nothing there.
    """
    said = _ask_gcs(address)
    typed = any(node.ray_node_type_name for node in said.cluster_resource_state.node_states)
    return typed and said.autoscaling_state.autoscaler_state_version > 0


def look(address: str) -> Seen:
    """Hear what it has to say."""
    import ray

    said = _ask_gcs(address).autoscaling_state
    groups = ray.util.placement_group_table().values()
    return Seen(
        bool(said.pending_instances or said.pending_instance_requests),
        # `details` begins with the group's id: "ID:STRATEGY|STATE"
        frozenset(one.details.partition(":")[0] for one in said.infeasible_gang_resource_requests),
        frozenset(one["placement_group_id"] for one in groups if one["state"] == "CREATED"),
    )


def ask(bundles: Iterable[Bundle]) -> list[Any]:
    """Ask for room, for all of these at once; give the groups in this order."""
    import ray

    return [ray.util.placement_group([one.resources()], strategy="PACK") for one in bundles]


def withdraw(groups: Iterable[Any]) -> threading.Thread:
    """Ask for these no more, on a thread: it waits for the cluster's head, which may be gone."""
    asking = threading.Thread(target=_withdraw, args=(list(groups),), name="withdraw", daemon=True)
    asking.start()
    return asking


def _withdraw(groups: list[Any]) -> None:
    import ray

    try:
        for group in groups:
            ray.util.remove_placement_group(group)
    except Exception:  # noqa: BLE001 - the cluster is being left, or is gone, and the groups with it
        return


def nodes() -> tuple[str, dict[str, float]]:
    """Name the node that is never taken away, if it is known, and the CPUs of those with any."""
    import ray

    there = {one["NodeID"]: one["Resources"] for one in ray.nodes() if one["Alive"]}
    head = next((node for node, has in there.items() if _HEAD in has), "")
    return head, {node: has["CPU"] for node, has in there.items() if has.get("CPU")}


def _ask_gcs(address: str) -> Any:
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    core: Any = _raylet
    reply: Any = autoscaler_pb2
    return reply.GetClusterStatusReply.FromString(
        core.GcsClient(address).get_cluster_status(_ANSWER_S)
    )
