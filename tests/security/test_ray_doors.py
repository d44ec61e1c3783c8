"""Whoever has no token finds every door of our cluster shut, and an open one is not joined."""

from __future__ import annotations

import asyncio
import os
import pathlib
import stat
import subprocess
import sys

import grpc
import psutil
import pytest
import pytest_asyncio

from agent import config
from agent.execution import cluster
from tests.execution.conftest import ray_cluster

__all__ = ["ray_cluster"]

pytestmark = pytest.mark.ray
IN_LOOP = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 90.0
NO_TOKEN = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""}
HOST = """
import sys
import ray
ray.init("local", include_dashboard=False, num_cpus=1, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
GUEST = """
import pathlib, sys
from agent import config
from agent.execution import cluster

settings = config.Ray(address=sys.argv[1], allow_open=sys.argv[3] == "open")
try:
    cores = cluster.start(settings, pathlib.Path(sys.argv[2]))
except (cluster.OpenCluster, cluster.TokenRefused) as error:
    print(type(error).__name__, error)
else:
    import ray
    print("joined", ray.get(ray.remote(lambda: 42).remote()))
    cluster.close(cores)
"""
DOORS = (
    "NodeInfoGcsService/CheckAlive",
    "NodeInfoGcsService/GetAllNodeInfo",
    "InternalKVGcsService/InternalKVGet",
    "InternalKVGcsService/InternalKVPut",
    "JobInfoGcsService/AddJob",
    "JobInfoGcsService/GetAllJobInfo",
    "ActorInfoGcsService/RegisterActor",
    "ActorInfoGcsService/GetAllActorInfo",
    "PlacementGroupInfoGcsService/CreatePlacementGroup",
)


async def started(code, *arguments, **environment):
    """Start a program whose Ray shares nothing with ours."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-c", code, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", **environment},
    )


async def guest(address, folder, how="shut", **environment):
    """Let another process join as the agent does, and give what it says."""
    process = await started(GUEST, address, str(folder), how, **environment)
    async with asyncio.timeout(WAIT_S):
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode().strip()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_cluster():
    """Give the address of a cluster that asks nobody who they are."""
    process = await started(HOST, **NO_TOKEN)
    async with asyncio.timeout(WAIT_S):
        yield (await process.stdout.readline()).decode().strip()
        process.stdin.close()
        await process.wait()


@pytest.mark.parametrize("door", DOORS)
@IN_LOOP
async def test_no_door_of_the_local_cluster_opens_without_a_token(ray_cluster, door):
    with grpc.insecure_channel(ray_cluster.address) as channel:
        ask = channel.unary_unary(f"/ray.rpc.{door}")
        for token in ((), (("authorization", "Bearer " + "0" * 64),)):
            with pytest.raises(grpc.RpcError) as refused:
                ask(b"", timeout=10, metadata=token)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


@IN_LOOP
async def test_whoever_has_no_token_does_not_join_the_local_cluster(ray_cluster, tmp_path):
    said = await guest(ray_cluster.address, tmp_path, **NO_TOKEN)
    assert said.startswith("TokenRefused")
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_TOKEN_PATH": ""}
    said = await guest(ray_cluster.address, tmp_path, **wrong)
    assert said.startswith("TokenRefused")
    assert "RAY_AUTH_TOKEN_PATH" in said
    assert await guest(ray_cluster.address, tmp_path) == "joined 42"


@pytest.mark.usefixtures("ray_cluster")
def test_the_token_is_in_the_data_folder_and_nobody_else_reads_it():
    assert os.environ["RAY_AUTH_MODE"] == "token"
    file = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert file.name == cluster.TOKEN_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(file.read_text()) == 64
    command_lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in command_lines if file.read_text() in line]


@IN_LOOP
async def test_no_port_of_the_local_cluster_listens_to_other_machines(ray_cluster):
    import ray

    assert ray.get(ray.remote(lambda: 42).remote()) == 42  # a worker listens too
    family = psutil.Process().children(recursive=True)
    rays = [each for each in family if "ray" in " ".join(each.cmdline())]
    found = [
        (each.pid, each.name(), one.laddr.ip)
        for each in rays
        for one in each.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert len({pid for pid, _, _ in found}) >= 3  # the head, its raylet and a worker at least
    assert {ip for _, _, ip in found} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, found
    assert ray_cluster.address.startswith("127.0.0.1:")


@IN_LOOP
async def test_an_open_cluster_is_refused_and_the_error_says_how_to_mend_it(open_cluster, tmp_path):
    said = await guest(open_cluster, tmp_path)
    assert said.startswith("OpenCluster")
    for part in (open_cluster, "RAY_AUTH_MODE=token", "ray.allow_open"):
        assert part in said


@IN_LOOP
async def test_an_open_cluster_is_joined_where_the_configuration_says_so(open_cluster, tmp_path):
    assert await guest(open_cluster, tmp_path, "open", **NO_TOKEN) == "joined 42"


@IN_LOOP
async def test_whether_a_cluster_is_open_is_told_by_asking_without_a_token(
    ray_cluster, open_cluster
):
    assert cluster.door(open_cluster) == "open"
    assert cluster.door(ray_cluster.address) == "shut"
    assert cluster.door("127.0.0.1:1") == "silent"


def test_by_default_an_open_cluster_is_not_allowed():
    assert config.Ray().allow_open is False
