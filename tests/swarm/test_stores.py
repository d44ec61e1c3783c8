"""Two agents that share no folder share a pipeline's stages, through the bus or through S3."""

from __future__ import annotations

import uuid

import boto3
import moto.server
import pytest
import pytest_asyncio
import s3fs

from agent import config
from agent.artifacts import objects, store
from agent.bus import server
from protocol import client, events
from tests.service import helpers
from tests.service.agent_process import Agent
from tests.service.helpers import stage
from tests.swarm import helpers as swarming

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.xdist_group("swarm"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory):
    async with server.EmbeddedServer(tmp_path_factory.mktemp("broker") / "nats") as one:
        yield one


@pytest.fixture(scope="module")
def s3():
    """Give the URI of a bucket of an S3 that the agents find by their environment."""
    one = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    one.start()
    host, port = one.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    name = f"models-{uuid.uuid4().hex}"
    with pytest.MonkeyPatch.context() as patched:
        for key, value in keys.items():
            patched.setenv(key, value)
        patched.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket=name)
        s3fs.S3FileSystem.clear_instance_cache()  # of connections to what other tests had here
        yield f"s3://{name}/mlpm"
    s3fs.S3FileSystem.clear_instance_cache()
    one.stop()


@pytest.fixture(scope="module", params=["bus", "s3"])
def uri(request):
    return config.OBJECTS if request.param == "bus" else request.getfixturevalue("s3")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agents(broker, uri, tmp_path_factory):
    """Give two agents, each with folders and a Ray of its own: one owns runs, one takes stages."""
    made = []
    prefix = f"store-{uuid.uuid4().hex[:8]}"
    for name, more in {
        "owner": {
            "swarm": config.Swarm(capabilities=("none",)),
            "specialist": config.Specialist(),
        },
        "taker": {"runs": config.Runs(max_active=0)},
    }.items():
        folder = tmp_path_factory.mktemp(name)
        settings = helpers.settings(
            folder / "data",
            agent_id=name,
            nats=config.Nats(url=broker.url, prefix=prefix),
            artifacts=config.Artifacts(uri=uri),
            **more,
        )
        made.append((Agent(folder, settings), settings))
    for agent, _ in made:
        await agent.start()
    yield {settings.agent_id: settings for _, settings in made}
    for agent, _ in made:
        await agent.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def ask(broker, agents):
    async with client.connect(broker.url, prefix=agents["owner"].nats.prefix) as one:
        yield one


async def test_agents_without_a_shared_folder_share_the_stages_of_a_pipeline(
    agents, ask, broker, uri, tmp_path
):
    status, told = await helpers.done(
        ask,
        stage("data", "service.points", {"rows": 3000}),
        stage("split", "prepare.split", inputs={"table": "data.table"}, placement="swarm"),
        stage(
            "train",
            "train.model",
            {"model": "LogisticRegression", "target": "target"},
            inputs={"train": "split.train"},
        ),
    )
    assert status.state == "succeeded", status.problem
    assert await swarming.kept_reports(ask._nats, ask.names) == 1
    (delegated,) = helpers.of(told, events.StageDelegated)
    assert delegated.specialist

    (split,) = helpers.of(told, events.StageSucceeded, "split")
    owner, taker = (agents[name].data_path for name in ("owner", "taker"))
    copies = {path.name for path in (taker / "artifact-copies").rglob("*") if path.is_file()}
    (made,) = helpers.of(told, events.StageSucceeded, "data")
    assert made.outputs["table"].digest[7:] in copies  # what the taker read, it read of the store
    assert not (owner / "artifacts").exists()
    assert not (taker / "artifacts").exists()

    kept = store.Store(
        agents["owner"].artifacts_uri, tmp_path, objects.access(broker.url, config.Nats())
    )
    ref = split.outputs["train"]
    assert ref.uri.startswith("nats-objects://" if uri == config.OBJECTS else "s3://")
    assert kept.get(ref).rows() == ref.rows
    (trained,) = helpers.of(told, events.StageSucceeded, "train")
    assert kept.get(trained.outputs["model"]).card.target == "target"
    again, _ = await helpers.done(
        ask,
        stage("data", "service.points", {"rows": 3000}),
        stage("split", "prepare.split", inputs={"table": "data.table"}, placement="swarm"),
    )
    assert all(one.cached for one in again.stages)
