"""Owns how a Ray worker is started: what it reserves, where, and whether it may outlive us."""

from __future__ import annotations

import functools
import uuid
from typing import Any

from agent.execution import hands, lines, worker

_NODE_LABEL = "ray.io/node-id"


def hire(
    setup: bytes, shape: hands.Shape, line: lines.Lines | None, place: str, node: str = ""
) -> hands.Hand:
    """Start a worker; with a namespace of Ray's it may outlive us, for others to find it there."""
    name = uuid.uuid4().hex
    lasting = {"name": name, "namespace": place, "lifetime": "detached"} if place else {}
    subject = line.subject(name) if line else ""
    actor = _exported().options(**_reserved(shape, node), **lasting).remote(setup, subject)
    return hands.Hand(actor, shape, name=name, line=line, shared=bool(place), node=node)


@functools.cache
def _exported() -> Any:
    import ray

    return ray.remote(concurrency_groups={worker.LISTENING: 4 + hands.AHEAD})(worker.Worker)


def _reserved(shape: hands.Shape, node: str) -> dict[str, Any]:
    return {
        "num_cpus": 0,
        "num_gpus": shape.gpu or None,
        "memory": shape.memory_bytes or None,
        "max_restarts": 0,
        "max_task_retries": 0,
        **(_at(node) if node else {"scheduling_strategy": "SPREAD"}),
    }


def _at(node: str) -> dict[str, Any]:
    """Name a node, and any other if it is gone.

    Ray 2.60 heeds a soft node affinity only now and then where nothing is reserved.
    """
    label = {_NODE_LABEL: node}
    return {"label_selector": label, "fallback_strategy": [{"label_selector": {}}]}
