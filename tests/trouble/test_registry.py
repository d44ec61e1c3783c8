"""An MLflow server that is down: the stage says so, and goes on once it is up again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import urllib.request

import pytest

from agent import children, config, service
from protocol import client, events
from stages import kit
from stages.register import champions
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]

MODULES = (*helpers.MODULES, "tests.trouble.stages")
WAIT_S = 60


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def is_up(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1) as reply:
        return reply.status == 200
    return False


@contextlib.asynccontextmanager
async def mlflow_server(folder, url):
    """Run an MLflow server that keeps its runs and artifacts in a folder."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = await children.start(command, folder / "mlflow.log", environment)
    try:
        for _ in range(3):  # it takes its time
            with contextlib.suppress(TimeoutError):
                await helpers.wait_until(lambda: is_up(url))
                break
        assert is_up(url)
        yield
    finally:
        await children.stop(process)


async def story(ask, run_id):
    """Give all events of a run once it is over; MLflow's client is patient."""
    async with asyncio.timeout(WAIT_S):
        return [entry.event async for entry in ask.follow(run_id)]


@pytest.mark.timeout(240)
async def test_a_model_is_registered_once_the_registry_is_back(ray_cluster, tmp_path):  # noqa: ARG001 - the connection is the process's
    url = f"http://127.0.0.1:{free_port()}"
    settings = helpers.settings(tmp_path / "agent", tracking=config.Tracking(url))
    retry = {"max_attempts": 2, "backoff_s": 0.1}
    stages = [
        stage("model", "trouble.model"),
        stage("keep", "register.model", {"name": "wine"}, inputs={"model": "model"}, retry=retry),
    ]
    async with (
        service.running(settings, modules=MODULES) as agent,
        client.connect(agent.nats_url) as ask,
    ):
        run_id = await helpers.submit(ask, *stages)
        told = await story(ask, run_id)
        assert len(helpers.of(told, events.StageRetrying, "keep")) == 1
        (failed,) = helpers.of(told, events.StageFailed, "keep")
        assert failed.problem.code == "transient"
        assert "MLflow" in failed.problem.hint
        assert url.removeprefix("http://").partition(":")[2] in failed.problem.message
        assert (await ask.status(run_id)).state == "failed"
        with pytest.raises(kit.Transient):
            champions.champion(url, "wine")
        async with mlflow_server(tmp_path, url):
            await ask.resume(run_id)
            await story(ask, run_id)
            status = await ask.status(run_id)
            assert status.state == "succeeded"
            assert helpers.by_id(status)["model"].attempt == 1
            kept = await asyncio.to_thread(champions.champion, url, "wine")
            assert kept.version == "1"
