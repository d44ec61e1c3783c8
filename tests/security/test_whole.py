"""The whole system on a locked bus, everybody under their own role."""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
import pytest
import pytest_asyncio

from agent import config, service
from agent.cli import ending
from protocol import accounts, client, events, permissions, serving
from tests.security import locked
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]
ORCHESTRATOR, _, OPERATOR, AGENT, SPECIALIST, _, WORKER, _, SERVING = permissions.ROLES
MODULES = (*helpers.MODULES, "tests.serving.sample_stages")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("locked-nats")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(ray_cluster, keys, folder, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    async with locked.serving(folder, accounts.configuration(keys.users)) as url:
        bus = config.Nats(url=url, nkey_seed=keys.seeds[AGENT], worker_nkey_seed=keys.seeds[WORKER])
        settings = helpers.settings(
            tmp_path_factory.mktemp("locked"),
            nats=bus,
            specialist=config.Specialist(nkey_seed=keys.seeds[SPECIALIST]),
            serving=config.Serving(nkey_seed=keys.seeds[SERVING], cpus=1),
        )
        async with service.running(settings, modules=MODULES) as running:
            yield running
        await asyncio.to_thread(ending.end, settings.data_path)


@pytest_asyncio.fixture(loop_scope="session")
async def orchestrator(agent, keys):
    async with client.connect(agent.nats_url, who=keys.who(ORCHESTRATOR)) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def operator(agent, keys):
    async with client.connect(agent.nats_url, who=keys.who(OPERATOR)) as one:
        yield one


async def mlpm(agent, keys, role, *arguments) -> tuple[int, str, str]:
    """Call the program with a role's key."""
    command = [sys.executable, "-m", "agent", *arguments, "--json", "--url", agent.nats_url]
    command += ["--set", f"nats.nkey_seed={keys.seeds[role]}"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


def complaints(folder) -> list[str]:
    """Give what the server has refused to anybody so far."""
    log = (folder / "nats.log").read_text()
    return [line for line in log.splitlines() if "Violation" in line]


async def test_a_pipeline_runs_from_request_to_model_with_every_part_under_its_role(
    orchestrator, operator, folder
):
    before = complaints(folder)
    told = {"model": "LogisticRegression", "target": "target"}
    run_id = await helpers.submit(
        orchestrator,
        stage("data", "service.points", {"rows": 200}),
        stage("train", "train.model", told, inputs={"train": "data.table"}),
        stage("gate", "sample.noop", needs=["train"], approval={"prompt": "Well?"}),
    )
    await helpers.wait_event(operator, run_id, events.ApprovalRequested)
    await operator.approve(run_id, "gate", by="ada")
    status = await helpers.ended(orchestrator, run_id)
    assert status.state == "succeeded", status.problem
    assert [one.run_id for one in (await operator.list()).runs] == [run_id]
    assert (await operator.catalog()).stages
    assert [one async for one in operator.journal(run_id)]
    assert complaints(folder) == before == []


async def test_a_model_is_deployed_and_asked_with_every_part_under_its_role(
    orchestrator, operator, folder
):
    fit = stage("fit", "serving.fit", {"slope": 2.0})
    go = stage("go", "deploy.model", {"name": "line"}, inputs={"model": "fit"})
    run_id = await helpers.submit(orchestrator, fit, go)
    async with asyncio.timeout(90):  # a serving host is started for it
        assert [one async for one in orchestrator.follow(run_id)]
    status = await orchestrator.status(run_id)
    assert status.state == "succeeded", status.problem
    for asker in (orchestrator, operator):
        told, version, _ = await asker.predict("line", serving.Predict(row={"x": 2}))
        assert [round(one, 6) for one in told.predictions] == [4.0]
        (listed,) = (await asker.endpoints()).endpoints
        assert (listed.state, listed.versions[0].version) == ("serving", version)
    with pytest.raises(client.Refused, match="no version of 'line' has served before"):
        await operator.roll_back("line", by="ada")
    assert (await operator.undeploy("line", by="ada")).state == "gone"
    assert complaints(folder) == []


async def test_an_operator_sees_what_happens_as_it_happens(orchestrator, operator, folder):
    tail = operator.tail(kind="run.succeeded")
    seen = asyncio.ensure_future(anext(tail))
    async with asyncio.timeout(helpers.WAIT_S):
        while not seen.done():
            await helpers.done(orchestrator, stage("one", "sample.noop"))
    assert isinstance(seen.result().event, events.RunSucceeded)
    await tail.aclose()
    assert complaints(folder) == []


async def test_each_part_is_on_the_bus_as_itself(orchestrator, keys, folder):
    await helpers.done(orchestrator, stage("one", "sample.add"))  # a worker is there, then
    (ports,) = folder.glob("*.ports")
    monitor = json.loads(ports.read_text())["monitoring"][0]
    async with httpx.AsyncClient() as http:
        found = (await http.get(f"{monitor}/connz?auth=1")).json()["connections"]
    public = {one.nkey: one.role.name for one in keys.users}
    roles = {(one.get("name", "").split("-")[0], public[one["authorized_user"]]) for one in found}
    assert {("worker", WORKER), ("specialist", SPECIALIST)} <= roles
    assert AGENT in {role for _, role in roles}


async def test_a_request_in_the_queue_is_taken(orchestrator, folder):
    request = helpers.request(stage("one", "sample.add"))
    run_id = await orchestrator.enqueue(request)
    async with asyncio.timeout(helpers.WAIT_S):
        while not [one async for one in orchestrator.journal(run_id)]:  # noqa: ASYNC110 - another takes it
            await asyncio.sleep(0.02)
    assert (await helpers.ended(orchestrator, run_id)).state == "succeeded"
    assert complaints(folder) == []


async def test_an_operator_stops_and_resumes_what_it_may_not_ask_for(
    orchestrator, operator, folder
):
    slow = stage("slow", "sample.sleep", {"seconds": 60})
    run_id = await helpers.submit(orchestrator, slow)
    await helpers.wait_event(operator, run_id, events.StageStarted)
    await operator.cancel(run_id, by="ada", grace_s=0.5)
    assert (await helpers.ended(operator, run_id)).state == "cancelled"
    assert (await operator.resume(run_id, by="ada")).state != "cancelled"
    await operator.cancel(run_id, by="ada", grace_s=0.5)
    assert complaints(folder) == []
    with pytest.raises(client.NotAuthorized) as caught:
        await asyncio.wait_for(operator.submit(helpers.request(stage("one", "sample.add"))), 4)
    assert caught.value.problem.code == "not_authorized"
    refused = complaints(folder)
    assert len(refused) == 1
    assert "pipeline.request" in refused[0]


async def test_the_program_shows_an_operator_the_events_and_refuses_it_a_run(
    orchestrator, agent, keys, tmp_path
):
    run_id = await helpers.submit(orchestrator, stage("one", "sample.add"))
    await helpers.ended(orchestrator, run_id)
    code, out, err = await mlpm(agent, keys, OPERATOR, "events", run_id, "--replay", "--no-follow")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["event"]["type"] == "run.succeeded"
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text("name: p\nstages:\n  - {id: one, use: sample.add}\n")
    code, out, err = await mlpm(agent, keys, OPERATOR, "run", str(pipeline))
    assert code == 1
    assert json.loads(out)["problem"]["code"] == "not_authorized"
    for command in ("agents", "doctor"):
        code, out, err = await mlpm(agent, keys, OPERATOR, command)
        assert code == 0, out + err


async def test_the_program_says_that_a_key_is_not_known(agent, tmp_path):
    stranger = tmp_path / "stranger.nk"
    locked.make_seed(stranger)
    unknown = locked.Keys({OPERATOR: str(stranger)}, [])
    code, out, _ = await mlpm(agent, unknown, OPERATOR, "runs")
    assert code == 1
    problem = json.loads(out)["problem"]
    assert problem["code"] == "not_authorized"
    assert stranger.read_text() not in out
