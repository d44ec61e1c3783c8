"""Deployed models: over HTTP and on the bus, whatever dies; one agent and one host for all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import uuid
from urllib.parse import unquote, urlsplit

import httpx
import msgspec
import nats.errors
import psutil
import pytest
import pytest_asyncio

from protocol import codec, events, serving
from tests.service import helpers
from tests.serving.place_of_work import wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("serving"),
]
ROW = b'{"row": {"x": 1}}'


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def line(work):
    """Give what was told of a run that has trained, registered and deployed the model `line`."""
    async with work.asking() as one:
        status, told = await work.deploy(one, "line", 2.0, x=[0.5, 1.5])
    assert status.state == "succeeded", status
    return told


async def on_bus(ask, name, body):
    return await ask.connection.request(ask.names.predict(name), body, timeout=30)


async def command(ask, message):
    """Have the host deploy, as an agent does; give what serves then, or the problem's code."""
    subject = ask.names.serving("deploy")
    while True:
        reply = await ask.connection.request(subject, codec.encode(message), timeout=60)
        told = msgspec.json.decode(reply.data)
        if "Nats-Service-Error-Code" in (reply.headers or {}):
            return told["code"]
        if not told.get("under_way"):
            return told["endpoint"]


def order(told, **changes) -> serving.DeployModel:
    """Give the order of a deployment that a run of the past could have given."""
    (accepted,) = helpers.of(told, events.RunAccepted)
    (fitted,) = helpers.of(told, events.StageSucceeded, "fit")
    model = fitted.outputs["model"]
    asked = {"name": "line", "version": "9", "model": model, "key": "another", "epoch": 1}
    asked["asker"] = uuid.uuid4().hex
    return serving.DeployModel(run_id=accepted.run_id, **(asked | changes))


async def test_a_registered_model_answers_over_http_and_on_the_bus_alike(work, ask, line):
    (deployed,) = helpers.of(line, events.StageDeployed)
    assert (deployed.model, deployed.version) == ("line", "1")
    assert deployed.subject == ask.names.predict("line")
    for body in (ROW, b'{"rows": [{"x": 1}, {"x": 2.5}]}'):
        over_http = await work.http.post(deployed.url, content=body)
        reply = await on_bus(ask, "line", body)
        assert over_http.status_code == 200
        assert over_http.content == reply.data
        assert over_http.headers["model-version"] == reply.headers["Model-Version"] == "1"
    assert [round(one, 6) for one in json.loads(reply.data)["predictions"]] == [2.0, 5.0]


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        (b'{"row": {}}', "invalid_field", "$.row.x"),
        (b'{"row": {"x": 1, "z": 2}}', "unknown_field", "$.row.z"),
        (b'{"rows": [{"x": 1}, {"x": "one"}]}', "invalid_field", "$.rows[1].x"),
        (b'{"row": {"x": NaN}}', "invalid_field", "$"),
        (b'{"row": {"x": null}}', "data_fault", "$"),
        (b'{"rows": []}', "invalid_field", "$"),
        (b"{", "invalid_json", "$"),
        (b'{"row": {"x": 1}, "probabilities": true}', "not_allowed", "$.probabilities"),
        (b'{"rows": [' + b'{"x": 1},' * 10_000 + b'{"x": 1}]}', "payload_too_large", "$.rows"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
@pytest.mark.usefixtures("line")
async def test_what_is_wrong_with_a_request_is_told_in_both_places(work, ask, body, code, where):
    over_http = await work.post("line", body)
    reply = await on_bus(ask, "line", body)
    assert over_http.content == reply.data
    told = over_http.json()
    assert (told["code"], told["path"]) == (code, where)
    assert 400 <= over_http.status_code < 500
    assert reply.headers["Nats-Service-Error-Code"] == str(over_http.status_code)
    assert await work.slope("line") == (2.0, "1")


@pytest.mark.usefixtures("line")
async def test_what_is_not_there_is_not_found(work, ask):
    over_http = await work.post("nothing", ROW)
    reply = await on_bus(ask, "nothing", ROW)
    assert (over_http.status_code, reply.headers["Nats-Service-Error-Code"]) == (404, "404")
    assert over_http.json()["code"] == json.loads(reply.data)["code"] == "not_found"
    assert (await work.http.get(f"{work.host.url}/elsewhere")).json()["code"] == "not_found"


@pytest.mark.usefixtures("line")
async def test_the_host_explains_itself(work):
    url = work.host.url
    document = (await work.http.get(f"{url}/openapi.json")).json()
    body = document["paths"]["/v1/models/line:predict"]["post"]["requestBody"]
    example = body["content"]["application/json"]["example"]
    answer = await work.post("line", json.dumps(example).encode())
    assert answer.status_code == 200
    told = document["paths"]["/v1/models/line:outcome"]["post"]["requestBody"]["content"]
    kind = told["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert set(document["components"]["schemas"][kind]["properties"]) == {"prediction", "value"}
    row = document["components"]["schemas"]["Row-line"]
    assert row["required"] == ["x"]
    (listed,) = (await work.http.get(f"{url}/v1/models")).json()
    assert (listed["name"], listed["version"], listed["target"]) == ("line", "1", "y")
    assert (await work.http.get(f"{url}/healthz")).json()["status"] == "ok"
    assert "/v1/models/line:predict" in (await work.http.get(url)).text


@pytest.mark.usefixtures("line")
async def test_nothing_of_a_host_listens_to_other_machines(work):
    tree = [psutil.Process(work.host.pid), *work.tree()]
    heard = {one.pid: _listening(one) for one in tree}
    assert {where for all_ in heard.values() for where, _ in all_} == {"127.0.0.1"}
    (replica,) = work.replicas()
    assert len(heard[replica]) == 1  # Ray's own, which asks for the token; none of Serve's


def _listening(process: psutil.Process) -> set[tuple[str, int]]:
    found = process.net_connections("inet")
    return {
        (one.laddr.ip.removeprefix("::ffff:"), one.laddr.port)
        for one in found
        if one.status == psutil.CONN_LISTEN
    }


@pytest.mark.usefixtures("line")
async def test_the_same_model_again_is_one_deployment(work, ask):
    before = work.replicas()
    status, told = await work.deploy(ask, "line", 2.0)
    assert status.state == "succeeded"
    (deployed,) = helpers.of(told, events.StageDeployed)
    (listed,) = (await ask.endpoints()).endpoints
    assert [one.version for one in listed.versions] == [deployed.version] == ["2"]
    assert await work.slope("line") == (2.0, "2")
    assert work.replicas() == before


async def test_a_deployment_that_was_made_is_not_made_again(work, ask, line):
    """What has replaced it meanwhile stays."""
    before = await work.slope("line")
    stream, entry = ask.names.endpoints_stream, ask.names.endpoint_key("line")
    kept = json.loads((await ask.connection.jetstream().get_last_msg(stream, entry)).data)
    (first, *_) = kept["done"]
    assert kept["done"][first]["version"] == "1" != before[1]
    told = await command(ask, order(line, version="1", key=first))
    assert [one["version"] for one in told["versions"]] == [before[1]]
    assert await work.slope("line") == before


async def test_a_late_owner_deploys_nothing(work, ask, line):
    before = await work.slope("line")
    assert await command(ask, order(line, epoch=0)) == "conflict"
    assert await work.slope("line") == before


async def test_the_next_owner_attaches_to_a_deployment_that_is_under_way(work, ask, line):
    orders = [order(line, name="twice", key="twice", epoch=epoch) for epoch in (1, 2)]
    told = await asyncio.gather(*(command(ask, one) for one in orders))
    assert told[0] == told[1]
    assert await work.slope("twice") == (2.0, "9")
    stream, entry = ask.names.endpoints_stream, ask.names.endpoint_key("twice")
    kept = json.loads((await ask.connection.jetstream().get_last_msg(stream, entry)).data)
    assert kept["done"]["twice"]["epoch"] == 2
    await ask.undeploy("twice")
    assert (await work.post("twice", ROW)).status_code == 404
    await wait_until(lambda: len(work.replicas()) == 1)


@pytest.mark.usefixtures("line")
async def test_a_body_without_end_is_not_read_to_its_end(work):
    async def endless():
        while True:
            yield b" " * 2**20

    with contextlib.suppress(httpx.TransportError):  # it may be hung up on before it hears why
        answer = await work.post("line", endless())
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")


@pytest.mark.usefixtures("line")
async def test_a_killed_replica_is_started_again(work):
    before, (replica,) = await work.slope("line"), work.replicas()
    os.kill(replica, signal.SIGKILL)
    assert await work.wait_slope("line") == before
    await wait_until(lambda: len(work.replicas() - {replica}) == 1)


@pytest.mark.usefixtures("line")
async def test_a_version_that_cannot_predict_the_rows_leaves_the_one_before(work, ask):
    before, replicas = await work.slope("line"), work.replicas()
    status, _ = await work.deploy(ask, "line", 7.0, x=[1.0, None])
    assert status.state == "failed"
    assert status.problem.code == "data_fault"
    assert await work.slope("line") == before
    assert work.replicas() == replicas


@pytest.mark.usefixtures("line")
async def test_a_damaged_model_is_refused_and_the_one_before_serves_on(work, ask):
    before = await work.slope("line")
    fit = helpers.stage("fit", "serving.fit", {"slope": 13.0})
    _, told = await helpers.done(ask, fit)
    wanted = order(told)
    _damage(wanted.model)
    asking = asyncio.create_task(command(ask, wanted))
    while not asking.done():
        assert await work.slope("line") == before
    assert asking.result() == "artifact_corrupt"
    assert await work.slope("line") == before


def _damage(ref) -> None:
    path = pathlib.Path(unquote(urlsplit(ref.uri).path))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


@pytest.mark.usefixtures("line")
async def test_a_cancelled_deployment_leaves_nothing(work, ask):
    replicas = work.replicas()
    fit = helpers.stage("fit", "serving.fit", {"slope": 5.0})
    go = helpers.stage("go", "deploy.model", {"name": "never"}, inputs={"model": "fit"})
    run_id = await helpers.submit(ask, fit, go)
    await wait_until(lambda: work.replicas() - replicas)
    await ask.cancel(run_id)
    assert (await helpers.ended(ask, run_id)).state == "cancelled"
    assert [one.name for one in (await ask.endpoints()).endpoints] == ["line"]
    await wait_until(lambda: work.replicas() == replicas)
    assert (await work.post("never", ROW)).status_code == 404


@pytest.mark.usefixtures("line")
async def test_the_endpoint_answers_all_the_while_that_the_agent_is_killed_and_started(work):
    host, before = work.host, await work.slope("line")
    heard = []

    async def listen():
        while True:
            heard.append(await work.slope("line"))
            await asyncio.sleep(0.02)

    listening = asyncio.create_task(listen())
    await work.agent.kill()
    await work.agent.start()
    async with work.asking() as ask:  # its bus has moved, and the host finds it
        async with asyncio.timeout(30):
            while (told := await _said_on_bus(ask)) is None:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.05)
        assert told == before
        assert [one.state for one in (await ask.endpoints()).endpoints] == ["serving"]
    assert not listening.done()
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    assert work.host == host
    assert set(heard) == {before}
    assert len(heard) > 20


@pytest.mark.usefixtures("line")
async def test_a_replica_that_dies_after_its_agent_was_started_anew_is_started_again(work):
    """The agent has another token for its cluster by then; the host has one of its own."""
    before, (replica,) = await work.slope("line"), work.replicas()
    os.kill(replica, signal.SIGKILL)
    assert await work.wait_slope("line") == before
    await wait_until(lambda: len(work.replicas() - {replica}) == 1)


async def _said_on_bus(ask):
    try:
        reply = await on_bus(ask, "line", ROW)
    except nats.errors.NoRespondersError:
        return None
    return round(json.loads(reply.data)["predictions"][0], 6), reply.headers["Model-Version"]


@pytest.mark.usefixtures("line")
async def test_a_killed_host_comes_back_with_what_was_deployed(work, ask):
    first, before = work.host, await work.slope("line")
    os.kill(first.pid, signal.SIGKILL)
    await wait_until(lambda: work.host and work.host.pid != first.pid)
    assert work.host.url == first.url
    assert await work.wait_slope("line") == before
    assert await _said_on_bus(ask) == before


@pytest.mark.usefixtures("line")
async def test_mlpm_lists_and_asks(work):
    shown = work.mlpm("endpoints", "--json")
    (listed,) = json.loads(shown.stdout)["endpoints"]
    assert (listed["name"], listed["state"]) == ("line", "serving")
    said = json.loads(work.mlpm("predict", "line", '[{"x": 1}, {"x": 2}]', "--json").stdout)
    assert [round(one, 6) for one in said["predictions"]] == [2.0, 4.0]
    wrong = work.mlpm("predict", "line", '{"z": 1}', "--json")
    assert wrong.returncode == 1
    assert json.loads(wrong.stdout)["problem"]["code"] == "unknown_field"


@pytest.mark.usefixtures("line")
async def test_what_was_ended_comes_back_until_it_is_taken_away(work):
    before, url = await work.slope("line"), work.host.url
    tree = [psutil.Process(work.host.pid), *work.tree(), psutil.Process(work.agent.pid)]
    done = work.mlpm("down", "--json")
    assert set(json.loads(done.stdout)) == {"agent", "serving host"}, done.stderr
    await wait_until(lambda: all(map(_is_over, tree)))
    await work.agent.start()
    assert await work.wait_slope("line") == before
    assert work.host.url == url
    tree = [psutil.Process(work.host.pid), *work.tree()]
    assert work.mlpm("undeploy", "line").returncode == 0
    assert work.mlpm("undeploy", "line").returncode == 1
    async with work.asking() as ask:
        assert (await ask.endpoints()).endpoints == []
    await wait_until(lambda: all(map(_is_over, tree)))  # a host without models ends


async def test_a_host_that_is_ended_while_it_stops_a_model_is_gone(work, ask):
    status, _ = await work.deploy(ask, "brief", 2.0)
    assert status.state == "succeeded", status
    tree = [psutil.Process(work.host.pid), *work.tree()]
    await ask.undeploy("brief")
    os.kill(tree[0].pid, signal.SIGTERM)
    await wait_until(lambda: all(map(_is_over, tree)))


def _is_over(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
