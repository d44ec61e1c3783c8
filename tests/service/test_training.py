"""Training that a specialist does for a run: done, stopped with proof, and handed on."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import nats
import psutil
import pytest
import pytest_asyncio

from agent import config, service
from agent.bus import server
from protocol import client, events, training
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]
LONG = {
    "model": "GradientBoostingClassifier",
    "params": {"n_estimators": 150, "n_iter_no_change": None},
    "search": {
        "strategy": "random",
        "space": {"max_depth": {"low": 2, "high": 4, "integer": True}},
        "max_trials": 8,
    },
    "validation": {"folds": 2},
}


def train(rows=400, **params):
    told = {"model": "LogisticRegression", "target": "target", **params}
    return [
        stage("data", "service.points", {"rows": rows}),
        stage("train", "train.model", told, inputs={"train": "data.table"}),
    ]


def at_trials():
    """Find the workers that are at a trial now."""
    everyone = psutil.Process().children(recursive=True)
    found = []
    for process in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::score" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def schooled(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    """Give an agent with the reference specialist as its child."""
    settings = helpers.settings(tmp_path_factory.mktemp("schooled"), specialist=config.Specialist())
    async with service.running(settings, modules=helpers.MODULES) as agent:
        yield agent


@pytest_asyncio.fixture(loop_scope="session")
async def ask(schooled):
    async with client.connect(schooled.nats_url) as one:
        yield one


async def test_a_model_is_trained_by_the_specialist(ask):
    status, told = await helpers.done(ask, *train())
    assert status.state == "succeeded", status.problem
    assert {"model", "metrics", "report"} == set(helpers.by_id(status)["train"].outputs)
    (delegated,) = helpers.of(told, events.StageDelegated)
    assert delegated.training_id
    assert delegated.specialist


async def test_a_training_is_cancelled_with_the_specialist_s_proof(ask):
    run_id = await helpers.submit(ask, *train(4000, **LONG))
    delegated = await helpers.wait_event(ask, run_id, events.StageDelegated)
    await helpers.wait_until(at_trials)
    await ask.cancel(run_id)
    receipt = (await helpers.story(ask, run_id))[-1]
    assert isinstance(receipt, events.RunCancelled)
    (stopped,) = receipt.stopped
    assert (stopped.stage, stopped.how) == ("train", "asked")
    assert stopped.where == delegated.specialist
    _, alive = psutil.wait_procs(at_trials(), timeout=3)
    assert not alive


class Peer:
    """A specialist that accepts every training and never ends one."""

    def __init__(self, bus, names) -> None:
        self._bus, self._names = bus, names
        self.asked: asyncio.Queue[training.TrainingRequest] = asyncio.Queue()
        self.recalled: asyncio.Queue[training.TrainingCancel] = asyncio.Queue()

    async def open(self):
        await self._bus.subscribe(self._names.training_request, cb=self._accept)
        await self._bus.subscribe(self._names.training_cancel, cb=self._stop)
        await self._bus.flush()

    async def _accept(self, message):
        asked = msgspec.json.decode(message.data, type=training.TrainingRequest)
        accepted = training.TrainingAccepted(asked.training_id, "peer")
        await self._bus.publish(message.reply, msgspec.json.encode(accepted))
        await self.asked.put(asked)

    async def _stop(self, message):
        asked = msgspec.json.decode(message.data, type=training.TrainingCancel)
        status = training.TrainingStatus(asked.training_id, "cancelled", stopped=True)
        await self._bus.publish(message.reply, msgspec.json.encode(status))
        await self.recalled.put(asked)

    async def next(self, queue):
        async with asyncio.timeout(helpers.WAIT_S):
            return await queue.get()


@pytest_asyncio.fixture(loop_scope="session")
async def broker(ray_cluster, tmp_path):  # noqa: ARG001 - the connection is the process's
    async with server.EmbeddedServer(tmp_path / "nats") as one:
        yield one


def one_of_two(broker, folder, name):
    """Configure an agent that holds one run, on a bus that others use too."""
    return service.running(
        helpers.settings(
            folder / name,
            agent_id=name,
            nats=config.Nats(url=broker.url),
            runs=config.Runs(max_active=1, lease_s=helpers.LEASE_S),
            artifacts=config.Artifacts(uri=(folder / "artifacts").as_uri()),
        ),
        modules=helpers.MODULES,
    )


@pytest_asyncio.fixture(loop_scope="session")
async def peer(broker):
    bus = await nats.connect(broker.url)
    async with client.connect(broker.url) as one:
        found = Peer(bus, one.names)
        await found.open()
        yield found
    await bus.close()


async def test_the_next_agent_attaches_to_the_training_of_one_that_stops(broker, peer, tmp_path):
    async with client.connect(broker.url) as ask:
        async with one_of_two(broker, tmp_path, "first"):
            run_id = await helpers.submit(ask, *train())
            asked = await peer.next(peer.asked)
            await helpers.wait_event(ask, run_id, events.StageDelegated)
        assert peer.recalled.empty()
        async with one_of_two(broker, tmp_path, "second"):
            again = await peer.next(peer.asked)
            assert again.training_id == asked.training_id
            assert again.epoch > asked.epoch
            assert peer.recalled.empty()
            await ask.cancel(run_id)
            assert (await peer.next(peer.recalled)).training_id == asked.training_id
            assert (await helpers.ended(ask, run_id)).state == "cancelled"


async def test_a_training_whose_agent_is_gone_is_stopped_when_its_run_is_cancelled(
    broker, peer, trace, tmp_path
):
    go = tmp_path / "go"
    held = stage("a", "service.work", {"trace": str(trace), "until": str(go)})
    async with client.connect(broker.url) as ask, contextlib.AsyncExitStack() as stack:
        async with one_of_two(broker, tmp_path, "first"):
            run_id = await helpers.submit(ask, *train())
            asked = await peer.next(peer.asked)
            await helpers.wait_event(ask, run_id, events.StageDelegated)
            await stack.enter_async_context(one_of_two(broker, tmp_path, "second"))
            busy = await helpers.submit(ask, held)
            await helpers.wait_line(trace, "began")
        await ask.cancel(run_id)  # nobody holds it, and the second agent has no room for it
        assert (await ask.status(run_id)).state == "cancelling"
        go.touch()
        assert (await helpers.ended(ask, run_id)).state == "cancelled"
        assert (await peer.next(peer.recalled)).training_id == asked.training_id
        assert (await helpers.ended(ask, busy)).state == "succeeded"
