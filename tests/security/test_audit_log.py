"""Who asked for what is written down: each command once, refused or not, and nothing it holds."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import pathlib
import socket
import subprocess
import sys

import nats
import nats.errors
import nats.js.errors
import pytest
import pytest_asyncio

from agent import config, service
from agent.bus import auditing, endpoints, senders, server, streams
from protocol import client, codec, commands, problems, signing, subjects, swarm, trail
from tests.prompting import helpers as prompting
from tests.security import locked
from tests.service import helpers
from tests.service.helpers import stage

NAMES = subjects.Subjects()
NOW = dt.datetime(2026, 11, 23, 9, 0, 0, tzinfo=dt.UTC)
ADA = signing.Key(signing.new_seed())
SECRET = "hunter2-is-not-for-the-log"
CANCEL = commands.Cancel(run_id="r", by="bob")
RUNNING = [
    pytest.mark.ray,
    pytest.mark.xdist_group("service"),
    pytest.mark.asyncio(loop_scope="session"),
]


def with_agent(test):
    """Mark a test that needs the running agent."""
    for mark in RUNNING:
        test = mark(test)
    return test


# The log alone.


@pytest.fixture
async def bus(nats_url):
    connection = await nats.connect(nats_url)
    await streams.ensure(connection.jetstream(), NAMES)
    yield connection
    await connection.close()


def writing(connection, security=config.Security()):  # noqa: B008 - it is frozen
    known = senders.Senders(connection, NAMES, security, lambda: NOW)
    return auditing.AuditLog("agent-1", connection, NAMES, known, lambda: NOW)


async def reply(command, caller):  # noqa: ARG001 - a handler takes both
    return commands.RunAccepted("r", "q")


async def stored(connection):
    """Give the records that are in the stream."""
    one = client.Client(connection)
    return [each.record async for each in one.audits()]


async def test_what_is_answered_is_in_the_log_once_it_is_closed(bus):
    audit = writing(bus)
    given = await audit.watched("cancel", reply, CANCEL, endpoints.Caller(digest="sha256:0"))
    assert given.run_id == "r"
    assert await stored(bus) == []
    await audit.close()
    (record,) = await stored(bus)
    assert record == trail.AuditRecord(
        at=NOW,
        agent="agent-1",
        action="cancel",
        outcome="ok",
        signed_by="unsigned",
        claimed="bob",
        run_id="r",
        digest="sha256:0",
    )


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (endpoints.Refusal(problems.Problem("conflict", SECRET)), "conflict"),
        (codec.Unreadable("application/json", SECRET), "invalid_json"),
        (RuntimeError(SECRET), "internal"),
    ],
)
async def test_a_refusal_is_written_down_with_its_code_and_raised(bus, error, outcome):
    async def refuse(command, caller):  # noqa: ARG001 - a handler takes both
        raise error

    audit = writing(bus)
    with pytest.raises(type(error)):
        await audit.watched("cancel", refuse, CANCEL, endpoints.Caller())
    await audit.close()
    (record,) = await stored(bus)
    assert record.outcome == outcome
    assert SECRET not in codec.encode(record).decode()


async def test_an_answer_waits_for_no_bus_and_the_log_has_it_when_the_bus_is_back(tmp_path):
    first = server.EmbeddedServer(tmp_path / "nats", port=(port := _free_port()))
    async with first:
        connection = await nats.connect(
            first.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=_quiet
        )
        await streams.ensure(connection.jetstream(), NAMES)
    audit = writing(connection)
    serving = asyncio.create_task(audit.serve())
    for number in range(100):
        command = commands.Cancel(run_id=f"r-{number}", by="bob")
        async with asyncio.timeout(1):
            await audit.watched("cancel", reply, command, endpoints.Caller())
    async with server.EmbeddedServer(tmp_path / "nats", port=port), asyncio.timeout(30):
        while not connection.is_connected:  # noqa: ASYNC110 - the test has no callback of its own
            await asyncio.sleep(0.02)
        await audit.close()
        found = [record.run_id for record in await stored(connection)]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await connection.close()
    assert sorted(found) == sorted(f"r-{number}" for number in range(100))


async def _quiet(_):
    pass


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def test_nothing_is_taken_out_of_the_log(bus):
    audit = writing(bus)
    await audit.watched("cancel", reply, CANCEL, endpoints.Caller())
    await audit.close()
    js = bus.jetstream()
    with pytest.raises(nats.js.errors.APIError):
        await js.delete_msg(NAMES.audit_stream, 1)
    with pytest.raises(nats.js.errors.APIError):
        await js.purge_stream(NAMES.audit_stream)
    assert len(await stored(bus)) == 1


async def test_how_long_and_how_large_the_log_gets_can_be_changed(bus):
    js = bus.jetstream()
    await streams.ensure(js, NAMES, 1, config.Security(audit_days=2, audit_bytes=1 << 21))
    kept = (await js.stream_info(NAMES.audit_stream)).config
    assert (kept.max_age, kept.max_bytes) == (2 * 86_400, 1 << 21)


async def test_the_log_is_read_by_action_and_from_the_newest(bus):
    audit = writing(bus)
    for action in ("cancel", "resume", "cancel", "approve"):
        await audit.watched(action, reply, CANCEL, endpoints.Caller())
    await audit.close()
    one = client.Client(bus)
    assert [each.sequence async for each in one.audits(action="cancel")] == [1, 3]
    assert [each.record.action async for each in one.audits(newest=2)] == ["cancel", "approve"]
    following = one.audits(action="resume", newest=1, follow=True)
    coming = asyncio.create_task(anext(following))
    await audit.watched("resume", reply, CANCEL, endpoints.Caller())
    await audit.close()
    async with asyncio.timeout(10):
        assert (await coming).sequence == 5


# The running agent.


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    """Give an agent that knows one key and demands it for approvals."""
    security = config.Security(require_signatures=("approve",), trusted_keys=(f"ada={ADA.public}",))
    settings = helpers.settings(tmp_path_factory.mktemp("audited"), security=security)
    async with service.running(settings, modules=helpers.MODULES) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent):
    async with client.connect(agent.nats_url) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def ada(agent):
    async with client.connect(agent.nats_url, signing_key=ADA) as one:
        yield one


async def recorded(ask, count, **wanted):
    """Wait until so many records match, and give them."""

    async def matching():
        return [
            each.record
            async for each in ask.audits()
            if all(getattr(each.record, name) == value for name, value in wanted.items())
        ]

    async with asyncio.timeout(helpers.WAIT_S):
        while len(found := await matching()) < count:  # noqa: ASYNC110 - it is written behind
            await asyncio.sleep(0.02)
    assert len(found) == count
    return found


@with_agent
async def test_every_command_about_a_run_is_written_down_with_who_gave_it(ask, ada):
    gate = stage("g", "sample.noop", approval={"prompt": "sure?"})
    request = helpers.request(gate)
    run_id = (await ada.submit(request)).run_id
    await helpers.wait_state(ask, run_id, "waiting")
    with pytest.raises(client.Refused):
        await ask.approve(run_id, "g", by="ada")
    await ada.approve(run_id, "g", by="bob", approved=False)
    await helpers.story(ask, run_id)
    await ask.resume(run_id, by="carol")
    await ask.cancel(run_id, by="dave")
    await helpers.story(ask, run_id)
    found = await recorded(ask, 5, run_id=run_id)
    told = [(one.action, one.outcome, one.signed_by, one.claimed, one.stage) for one in found]
    assert told == [
        ("submit", "ok", "ada", "client", None),
        ("approve", "not_authorized", "unsigned", "ada", "g"),
        ("deny", "ok", "ada", "bob", "g"),
        ("resume", "ok", "unsigned", "carol", None),
        ("cancel", "ok", "unsigned", "dave", None),
    ]
    assert [one.key for one in found[:2]] == [ADA.public, None]
    assert found[0].digest == auditing._digest(codec.encode(request))
    assert {one.agent for one in found} == {(await ask.status(run_id)).owner}


@with_agent
async def test_what_an_agent_is_told_about_itself_is_written_down(agent, ask):
    bus = await nats.connect(agent.nats_url)
    subject = NAMES.control(agent.agent_id)
    for action in ("drain", "undrain"):
        await helpers.ask_raw(bus, subject, codec.encode(swarm.AgentControl(action=action)))
        if action == "drain":
            with pytest.raises(client.Refused):
                await ask.submit(helpers.request(stage("a", "sample.noop")))
    assert len(await recorded(ask, 2, action="control", outcome="ok")) == 2
    await recorded(ask, 1, action="submit", outcome="overloaded")
    await bus.close()


@with_agent
async def test_what_could_not_even_be_read_is_written_down(agent, ask):
    bus = await nats.connect(agent.nats_url)
    resume, body = NAMES.pipeline("resume"), b'{"run_id": 3'
    await helpers.ask_raw(bus, resume, body)
    (record,) = await recorded(ask, 1, action="resume", outcome="invalid_json")
    assert (record.run_id, record.claimed, record.digest) == (None, None, auditing._digest(body))
    forged = codec.encode(commands.Resume(run_id="r-forged", by="ada"))
    await helpers.ask_raw(bus, resume, forged, **ADA.headers(resume, b"{}"))
    (record,) = await recorded(ask, 1, run_id="r-forged")
    assert (record.outcome, record.signed_by, record.claimed) == (
        "not_authorized",
        "unsigned",
        "ada",
    )
    await bus.close()


@with_agent
async def test_a_prompt_whose_signature_does_not_hold_is_written_down(agent, ask):
    bus = await nats.connect(agent.nats_url)
    place = agent.prompts._place
    subject, body = place.subject("prompt"), b"cancel run-of-somebody"
    said = await prompting.replies(bus, subject, body, ADA.headers(subject, body + b" "))
    assert "403" in [(one.headers or {}).get("Nats-Service-Error-Code") for one in said]
    (record,) = await recorded(ask, 1, action="prompt")
    assert (record.outcome, record.signed_by, record.key) == ("not_authorized", "unsigned", None)
    assert record.digest == auditing._digest(body)
    asked = prompting.request(stage("a", "sample.noop"), name="prompted")
    request = json.dumps({"prompt": asked}).encode()
    await prompting.replies(bus, subject, request, ADA.headers(subject, request))
    (record,) = await recorded(ask, 1, digest=auditing._digest(request))
    assert (record.action, record.outcome, record.signed_by) == ("submit", "ok", "ada")
    await recorded(ask, 1, action="prompt")
    await bus.close()


@with_agent
async def test_a_queued_request_is_written_down_whether_it_is_taken_or_not(ask):
    run_id = await ask.enqueue(helpers.request(stage("a", "sample.noop")))
    (record,) = await recorded(ask, 1, run_id=run_id)
    assert (record.action, record.outcome) == ("queue", "ok")
    await helpers.ended(ask, run_id)
    run_id = await ask.enqueue(helpers.request(stage("a", "sample.nothing_like_it")))
    (record,) = await recorded(ask, 1, run_id=run_id)
    assert (record.action, record.outcome) == ("queue", "unknown_stage")


@with_agent
async def test_nothing_that_a_command_holds_is_in_the_log(agent, ask):
    run_id = await helpers.submit(ask, stage("a", "sample.echo", {"value": SECRET}))
    await helpers.ended(ask, run_id)
    with pytest.raises(client.Refused):
        await ask.cancel(run_id, reason=SECRET)
    with pytest.raises(client.Refused):
        await ask.resume(run_id, params={"a": {"value": SECRET, SECRET: 1}})
    await recorded(ask, 3, run_id=run_id)
    bus = await nats.connect(agent.nats_url)
    js = bus.jetstream()
    state = (await js.stream_info(NAMES.audit_stream)).state
    for sequence in range(1, state.last_seq + 1):
        message = await js.get_msg(NAMES.audit_stream, sequence)
        assert SECRET.encode() not in message.data
        assert SECRET not in str(message.headers)
    await bus.close()


@with_agent
async def test_what_only_looks_is_not_written_down(ask):
    before = [each async for each in ask.audits()]
    await ask.list()
    await ask.validate(helpers.request(stage("a", "sample.noop")))
    with pytest.raises(client.Refused):
        await ask.status("nobody")
    assert [each async for each in ask.audits()] == before


# The program.


def mlpm(folder, *arguments):
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MLPM_")}
    clean |= {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    return subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


def test_a_new_key_is_its_users_alone_and_is_never_written_over(tmp_path):
    made = mlpm(tmp_path, "keys", "new", "ada.key", "--name", "ada")
    file = tmp_path / "ada.key"
    public = made.stdout.strip()
    assert (made.returncode, file.stat().st_mode & 0o777) == (0, 0o600)
    assert signing.read_key(str(file)).public == public
    assert f"ada={public}" in made.stderr
    assert file.read_text().strip() not in made.stdout + made.stderr
    held = file.read_bytes()
    again = mlpm(tmp_path, "keys", "new", "ada.key")
    assert (again.returncode, file.read_bytes()) == (1, held)
    shown = mlpm(tmp_path, "keys", "show", "ada.key", "--json")
    assert json.loads(shown.stdout)["public"] == public
    locked.make_seed(tmp_path / "open.key", mode=0o644)
    assert mlpm(tmp_path, "keys", "show", "open.key").returncode == 1
    assert mlpm(tmp_path, "keys", "show", "nowhere.key").returncode == 1


@with_agent
async def test_the_program_signs_and_shows_who_asked(agent, ask, tmp_path):
    key = tmp_path / "ada.key"
    key.write_bytes(ADA._pair.seed)
    key.chmod(0o600)
    run_id = await helpers.submit(ask, stage("g", "sample.noop", approval={"prompt": "sure?"}))
    await helpers.wait_state(ask, run_id, "waiting")
    here = ("--url", agent.nats_url)
    refused = await asyncio.to_thread(mlpm, tmp_path, "approve", run_id, "g", *here)
    assert (refused.returncode, "--sign-with" in refused.stderr) == (1, True)
    signed = await asyncio.to_thread(
        mlpm, tmp_path, "approve", run_id, "g", "--sign-with", key, *here
    )
    assert signed.returncode == 0, signed.stderr
    await recorded(ask, 2, action="approve", run_id=run_id)
    shown = await asyncio.to_thread(mlpm, tmp_path, "audits", "--json", "--last", 0, *here)
    told = [json.loads(line)["record"] for line in shown.stdout.splitlines()]
    ours = [one for one in told if one.get("run_id") == run_id and one["action"] == "approve"]
    assert [(one["outcome"], one["signed_by"]) for one in ours] == [
        ("not_authorized", "unsigned"),
        ("ok", "ada"),
    ]
    plain = await asyncio.to_thread(mlpm, tmp_path, "audits", "--action", "approve", *here)
    assert plain.stdout.splitlines()[-1].split()[2:6] == ["approve", "ok", run_id, "g"]
