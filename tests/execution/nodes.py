"""Owns a further node of the session's Ray cluster, on this machine."""

from __future__ import annotations

import asyncio
import contextlib

from tests.execution import helpers

READY_S = 60.0
STORE_BYTES = 128 * 2**20


@contextlib.asynccontextmanager
async def joined(address: str, cpus: int):
    """Have a node with so many CPUs in the cluster while the context lasts."""
    before = count()
    node = await asyncio.to_thread(_start, address, cpus)
    try:
        await wait_cpus(before + cpus)
        yield
    finally:
        await leave(node)
        await wait_cpus(before)


def _start(address: str, cpus: int):
    """Start it as `ray.cluster_utils` does: `ray start` would join no cluster on loopback."""
    from ray._private import node, parameter

    asked = parameter.RayParams(
        gcs_address=address,
        num_cpus=cpus,
        num_gpus=0,
        node_ip_address="127.0.0.1",
        object_store_memory=STORE_BYTES,
        include_log_monitor=False,
        node_manager_port=0,
        dashboard_agent_listen_port=None,
    )
    return node.Node(asked, head=False, shutdown_at_exit=False, spawn_reaper=True)


async def leave(node) -> None:
    """End a node with all its workers."""
    await asyncio.to_thread(node.kill_all_processes, check_alive=False, allow_graceful=True)


def count() -> int:
    """Say how many CPUs the cluster has."""
    import ray  # it reads the environment that `cluster.start` makes

    return int(ray.cluster_resources().get("CPU", 0))


async def wait_cpus(wanted: int) -> None:
    """Wait until the cluster knows that it has so many CPUs."""
    async with asyncio.timeout(READY_S):
        while await asyncio.to_thread(count) != wanted:  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.05)


async def wait_until(condition) -> None:
    """Wait until something holds that nothing announces."""
    async with asyncio.timeout(helpers.WAIT_S):
        while not condition():  # noqa: ASYNC110 - Ray brings it about
            await asyncio.sleep(0.02)
