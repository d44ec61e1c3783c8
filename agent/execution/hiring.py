"""Owns how Ray workers are started: what they reserve, where, and whether they may outlive us."""

from __future__ import annotations

import concurrent.futures
import functools
import uuid
from typing import Any

import msgspec

from agent.execution import calls, hands, lines, worker

_NODE_LABEL = "ray.io/node-id"


class NotHired(Exception):
    """Ray has not started a worker, nor will it."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(f"Ray did not start a worker: {reason}")


class Hiring:
    """Starts workers; with a namespace of Ray's they may outlive us, for others to find them."""

    def __init__(self, setup: worker.Setup, line: lines.Lines | None, place: str = "") -> None:
        self._setup = msgspec.msgpack.encode(setup)
        self._line = line
        self._lasting = {"namespace": place, "lifetime": "detached"} if place else {}
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "hiring") if place else None

    def hire(self, shape: hands.Shape, node: str) -> hands.Hand:
        """Start a worker, on the named node if one is named."""
        name = uuid.uuid4().hex
        options = _reserved(shape, node)
        if self._lasting:
            options |= {"name": name, **self._lasting}
        subject = self._line.subject(name) if self._line else ""
        start = functools.partial(_start, options, self._setup, subject)
        # A name is asked of the cluster's head, which may be gone: the event loop must not wait.
        hired = self._thread.submit(start) if self._thread else hands.there(start())
        return hands.Hand(
            hired, shape, name=name, line=self._line, shared=bool(self._lasting), node=node
        )

    def close(self) -> None:
        """Hire nobody any more."""
        if self._thread:
            self._thread.shutdown(wait=False)


def _start(options: dict[str, Any], setup: bytes, subject: str) -> Any:
    try:
        return _exported().options(**options).remote(setup, subject)
    except Exception as error:
        raise NotHired(error) from error


@functools.cache
def _exported() -> Any:
    import ray

    return ray.remote(concurrency_groups={worker.LISTENING: 4 + calls.AHEAD})(worker.Worker)


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
