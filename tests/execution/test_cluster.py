"""Owns what the connection to Ray promises."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from agent import config
from agent.execution import cluster

pytestmark = pytest.mark.ray

GUEST = """
import pathlib, sys, warnings
from agent import config
from agent.execution import cluster

cores = cluster.start(config.Ray(address=sys.argv[1]), pathlib.Path(sys.argv[2]))
import ray

print(cores.remote, cores.cpus, ray.get(ray.remote(lambda: 42).remote()))
cluster.close(cores)
"""


async def python(code, *arguments, **extra):
    """Run a program, and give what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ) | extra,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode().strip()


async def test_another_process_joins_by_address_and_leaves_it_running(ray_cluster, tmp_path):
    for _ in "ab":
        said = await python(GUEST, ray_cluster.address, str(tmp_path))
        assert said == "True 2 42"


async def test_the_local_cluster_is_reachable_from_this_machine_alone(tmp_path):
    code = """
import pathlib, sys, psutil
from agent import config
from agent.execution import cluster

cores = cluster.start(config.Ray(cpus=1), pathlib.Path(sys.argv[1]))
mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
hosts = {c.laddr.ip for p in mine for c in p.net_connections("tcp") if c.status == "LISTEN"}
cluster.close(cores)
print(cores.address.partition(":")[0], sorted(hosts))
"""
    host, _, listening = (await python(code, str(tmp_path))).partition(" ")
    assert host == "127.0.0.1"
    assert set(listening.strip("[]").replace("'", "").split(", ")) <= {
        "127.0.0.1",
        "::ffff:127.0.0.1",
    }


def test_a_connection_that_was_there_is_left_alone(ray_cluster, tmp_path):
    import ray

    again = cluster.start(config.Ray(), tmp_path)
    assert again.address == ray_cluster.address
    cluster.close(again)
    assert ray.is_initialized()


async def test_naming_executors_does_not_load_ray():
    code = """
import sys
from agent.execution import attempt, cached, cluster, in_agent, pool, worker
heavy = {"ray", "pandas", "pyarrow", "sklearn", "mlflow", "torch", "optuna", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""
    assert await python(code) == "[]"
