"""The running agent as callers of the Synadia Agent Protocol find it, with their own package."""

from __future__ import annotations

import asyncio
import json

import nats
import pytest
from synadia_ai import agents

from agent import config, service
from protocol import codec, commands, events, problems, signing
from tests.prompting.helpers import (
    attached,
    heard,
    questions,
    refused,
    replies,
    request,
    result,
    stream,
    texts,
    until,
)
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS
NOOP = stage("a", "sample.noop")
GATE = stage("g", "sample.noop", approval={"prompt": "sure?"})


def held(trace, go):
    """Describe a stage that works until a file is there."""
    return stage("a", "service.work", {"trace": str(trace), "until": str(go)})


async def test_a_caller_discovers_the_agent_and_what_it_takes(mlpm, agent, callers):
    assert (mlpm.agent, mlpm.owner, mlpm.session_name) == ("mlpm", "codeguardian", "default")
    assert mlpm.protocol_version == "0.3"
    assert mlpm.version
    assert "help" in mlpm.description
    assert mlpm.prompt_subject == "agents.prompt.mlpm.codeguardian.default"
    assert mlpm.prompt_endpoint.queue_group == "agents"
    assert mlpm.prompt_endpoint.attachments_ok is True
    assert mlpm.prompt_endpoint.max_payload_bytes == agent.settings.runs.max_payload_bytes
    assert await callers.ping(mlpm.instance_id)


async def test_a_caller_can_ask_whether_the_agent_lives(mlpm):
    status = await mlpm.status()
    assert status.instance_id == mlpm.instance_id
    assert (status.agent, status.owner, status.session) == ("mlpm", "codeguardian", "default")
    assert status.interval_s == 10


async def test_a_request_as_text_is_run_and_its_events_stream_to_the_result(mlpm, ask):
    stages = [stage("a", "sample.add", {"number": 2}), stage("b", "sample.noop", needs=["a"])]
    chunks = await heard(mlpm, request(*stages, name="wine"))
    assert chunks[0] == agents.StatusChunk(status="ack")
    told = texts(chunks)
    found = result(chunks)
    assert told[0] == f"run {found.run_id} is accepted: wine, 2 stages"
    assert next(line for line in told if line.startswith("stage")) == "stage a began"
    assert told[-2].startswith("the run succeeded after ")
    assert told[-1].startswith(f"wine {found.run_id} succeeded, accepted ")
    assert "\n- b (sample.noop) succeeded" in told[-1]
    assert found == await ask.status(found.run_id)
    assert found.state == "succeeded"


async def test_a_request_can_be_attached(mlpm):
    document = agents.Attachment.from_bytes("pipeline.json", request(NOOP).encode())
    assert result(await heard(mlpm, "run", attachments=[document])).state == "succeeded"


async def test_asked_twice_a_run_runs_once(mlpm, ask):
    asked = request(NOOP)
    first, second = await asyncio.gather(heard(mlpm, asked), heard(mlpm, asked))
    assert result(first).run_id == result(second).run_id
    told = await helpers.story(ask, result(first).run_id)
    assert len(helpers.of(told, events.StageSucceeded)) == 1


async def test_a_failed_run_is_an_answer_and_no_error(mlpm):
    chunks = await heard(mlpm, request(stage("a", "sample.fail", {"how": "data"})))
    assert any(line.startswith("stage a failed: data_fault") for line in texts(chunks))
    found = result(chunks)
    assert (found.state, found.problem.code) == ("failed", "data_fault")


async def test_of_a_wide_stage_only_the_whole_and_what_went_wrong_is_told(mlpm, trace):
    items = stage("items", "sample.items", {"items": list(range(5))})
    params, wide = {"trace": str(trace), "bad": [3]}, {"items": "items", "min_success": 0.5}
    each = stage("each", "service.each", params, for_each=wide)
    told = texts(await heard(mlpm, request(items, each)))
    began, *between, ended = [line for line in told if line.startswith("stage each")]
    assert began == "stage each began, 5 elements"
    assert [line.partition(":")[0] for line in between] == ["stage each[3] failed"]
    assert ", 1 elements failed" in ended


async def test_a_gate_is_a_question_and_its_answer_goes_into_the_journal(mlpm, ask):
    chunks = await heard(mlpm, request(GATE), ["approve looks good"])
    (question,) = questions(chunks)
    assert "Stage g of run" in question
    assert "sure?" in question
    assert result(chunks).state == "succeeded"
    told = await helpers.story(ask, result(chunks).run_id)
    (approved,) = helpers.of(told, events.StageApproved)
    assert (approved.by, approved.comment) == ("agents.prompt", "looks good")
    assert "agents.prompt approved stage g: looks good" in texts(chunks)


async def test_a_gate_can_be_denied(mlpm):
    chunks = await heard(mlpm, request(GATE), ["Deny too early"])
    assert "agents.prompt denied stage g: too early" in texts(chunks)
    assert (result(chunks).state, result(chunks).problem.code) == ("failed", "denied")


async def test_what_is_no_answer_is_asked_again_and_at_last_left_to_others(mlpm, ask):
    envelope = agents.Envelope(prompt="approve at last")
    chunks = await heard(mlpm, request(GATE), ["perhaps", "{", "", envelope])
    assert len(questions(chunks)) == 4
    assert any("'perhaps' is no answer" in text for text in texts(chunks))
    assert result(chunks).state == "succeeded"
    asked = 0
    async with asyncio.timeout(helpers.WAIT_S):
        async for chunk in mlpm.prompt(request(GATE)):
            if isinstance(chunk, agents.Query):
                asked += 1
                run_id = chunk.prompt.split()[4]
                await chunk.reply("hm")
            elif getattr(chunk, "text", "") == "stage g goes on waiting for an answer":
                await ask.approve(run_id, "g")
    assert asked == 5


async def test_a_gate_that_is_answered_elsewhere_is_no_question_any_more(mlpm, ask):
    chunks = []
    async with asyncio.timeout(helpers.WAIT_S):
        async for chunk in mlpm.prompt(request(GATE)):
            chunks.append(chunk)
            if isinstance(chunk, agents.Query):
                run_id = chunk.prompt.split()[4]
                await ask.approve(run_id, "g", by="ada")
    assert "ada approved stage g" in texts(chunks)
    assert result(chunks).state == "succeeded"
    again = await heard(mlpm, f"follow {run_id}")
    assert questions(again) == []
    assert texts(again)[:-1] == texts(chunks)[:-1]


async def test_who_takes_a_stream_up_again_is_asked_what_still_waits(mlpm, ask):
    run_id = await helpers.submit(ask, NOOP, GATE | {"needs": ["a"]})
    await helpers.wait_state(ask, run_id, "waiting")
    chunks = await heard(mlpm, f"follow {run_id}", ["approve"])
    assert len(questions(chunks)) == 1
    assert result(chunks).state == "succeeded"


async def test_a_run_is_shown_cancelled_and_resumed(mlpm, ask, trace, go):
    run_id = await helpers.submit(ask, held(trace, go))
    await helpers.wait_line(trace, "began")
    await helpers.wait_state(ask, run_id, "running")
    shown = await heard(mlpm, f"status {run_id}")
    assert result(shown).state == "running"
    assert texts(shown)[0].startswith(f"p {run_id} running, accepted ")
    cancelled = await heard(mlpm, f"cancel {run_id} not needed any more")
    assert "agents.prompt asked for the run to stop: not needed any more" in texts(cancelled)
    assert texts(cancelled)[-2].endswith("nothing of it runs any more")
    assert not any("is accepted" in text for text in texts(cancelled))
    assert result(cancelled).state == "cancelled"
    go.touch()
    resumed = await heard(mlpm, f"resume {run_id}")
    assert texts(resumed)[0] == "agents.prompt resumed the run; what runs again: a"
    assert result(resumed).state == "succeeded"
    _, error = await refused(mlpm, f"resume {run_id}")
    assert error.startswith("service error 409: conflict")


async def test_runs_and_stages_are_listed_with_a_document(mlpm, ask):
    run_id = await helpers.submit(ask, NOOP, name="listed")
    await helpers.ended(ask, run_id)
    listed = (await heard(mlpm, "runs"))[-1]
    assert f"{run_id} listed succeeded, 1/1 stages" in listed.text
    assert run_id in {run.run_id for run in attached(listed, "runs.json", commands.RunList).runs}
    catalog = (await heard(mlpm, "stages sample."))[-1]
    assert "sample.noop (" in catalog.text
    cards = attached(catalog, "stages.json", commands.StageCatalog).stages
    assert all(card.name.startswith("sample.") for card in cards)
    (add,) = [card for card in cards if card.name == "sample.add"]
    assert "number" in str(add.params)


async def test_help_names_every_word(mlpm):
    (text,) = texts(await heard(mlpm, " HELP\n"))
    for word in ("run", "follow", "status", "runs", "cancel", "resume", "stages", "help"):
        assert f"\n  {word}" in text


async def test_a_refused_request_is_told_with_code_path_and_hint(mlpm):
    said, error = await refused(mlpm, request(stage("a", "sample.ad"), stage("a", "sample.noop")))
    line = (
        "unknown_stage at $.pipeline.stages[0].use: no stage is called 'sample.ad' "
        "(hint: did you mean 'sample.add'?)"
    )
    first, second = said.split("\n")
    assert first == line
    assert second.startswith("duplicate_id at $.pipeline.stages[1].id: ")
    assert error == f"service error 400: {first}"


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("please train a model", "400: invalid_field at $.prompt: 'please' is none of the words"),
        ("stauts x", "400: invalid_field at $.prompt: 'stauts' is none of the words"),
        ("status", "400: invalid_field at $.prompt: `status` takes the id of a run"),
        ("status a b", "400: invalid_field at $.prompt: `status` takes the id of a run"),
        ("status a.>", "400: invalid_field at $.prompt: 'a.>' is not the id of a run"),
        ("status nobody", "404: not_found"),
        ("follow nobody", "404: not_found"),
        ("cancel nobody", "404: not_found"),
        ("resume nobody", "404: not_found"),
        ("run", "400: invalid_field at $.prompt: `run` needs a PipelineRequest"),
        ("{", "400: invalid_json at $: "),
        ('{"request_id": 3}', "400: invalid_field at $.request_id: "),
        ("\n", "400: invalid_field at $.prompt: "),
    ],
)
async def test_a_prompt_that_cannot_be_followed_is_refused(mlpm, prompt, error):
    _, told = await refused(mlpm, prompt)
    assert told.startswith(f"service error {error}")


async def test_a_refusal_carries_its_problem_and_then_the_stream_ends(mlpm, bus):
    sent = await replies(bus, mlpm.prompt_subject, b"stauts x")
    *_, failed, last = sent
    assert failed.headers["Nats-Service-Error-Code"] == "400"
    problem = codec.decode(failed.data, problems.Problem)
    assert (problem.code, problem.path) == ("invalid_field", "$.prompt")
    assert problem.hint == "did you mean 'status'?"
    assert (last.data, last.headers) == (b"", None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\xfe", "invalid_json"),
        (b"", "invalid_field"),
        (b'{"text": "help"}', "invalid_field"),
        (b'{"prompt": "\xff"}', "invalid_json"),
        (b'{"prompt": "run", "attachments": [{"filename": "a", "content": "?"}]}', "invalid_field"),
        (b'{"prompt": "help", "x": ' + b"[" * 100_000, "invalid_json"),
    ],
)
async def test_bytes_that_are_no_prompt_are_refused(mlpm, bus, data, code):
    *_, failed, _ = await replies(bus, mlpm.prompt_subject, data)
    assert failed.headers["Nats-Service-Error-Code"] == "400"
    assert codec.decode(failed.data, problems.Problem).code == code


async def test_plain_text_and_unknown_fields_are_taken(mlpm, bus):
    for data in (b"runs", json.dumps({"prompt": "runs", "session": "x"}).encode()):
        first, *_, last = await replies(bus, mlpm.prompt_subject, data)
        assert json.loads(first.data) == {"type": "status", "data": "ack"}
        assert (last.data, last.headers) == (b"", None)


async def test_only_run_takes_an_attachment_and_only_one(mlpm):
    one = agents.Attachment.from_bytes("a.json", request(NOOP).encode())
    said, _ = await refused(mlpm, "please run this", attachments=[one])
    assert said.endswith("(hint: say `run`, or attach nothing)")
    said, _ = await refused(mlpm, "run", attachments=[one, one])
    assert said.endswith("(hint: attach one PipelineRequest)")


async def test_many_prompts_are_answered_at_once(mlpm, trace, go):
    waiting = asyncio.create_task(heard(mlpm, request(held(trace, go))))
    await helpers.wait_line(trace, "began")
    found = await asyncio.gather(*(heard(mlpm, request(NOOP)) for _ in range(8)))
    assert {result(chunks).state for chunks in found} == {"succeeded"}
    assert not waiting.done()
    go.touch()
    assert result(await waiting).state == "succeeded"


async def test_a_caller_that_goes_away_stops_no_run_and_leaves_nothing(agent, mlpm, ask, trace, go):
    connection = await nats.connect(agent.nats_url)
    (found,) = await agents.Agents(nc=connection).discover()
    before = {run.run_id for run in (await ask.list()).runs}
    await until(found, request(held(trace, go), name="left"), "stage a began")
    await connection.close()
    (run_id,) = {run.run_id for run in (await ask.list()).runs} - before
    await helpers.wait_line(trace, "began")
    go.touch()
    assert (await helpers.ended(ask, run_id)).state == "succeeded"
    await helpers.wait_until(lambda: agent.prompts.at_work == 0)
    assert result(await heard(mlpm, f"follow {run_id}")).state == "succeeded"


async def test_a_stopping_agent_ends_its_streams_and_its_runs_wait(
    ray_cluster,  # noqa: ARG001 - the connection is the process's
    broker,
    tmp_path,
):
    settings = helpers.settings(
        tmp_path / "agent",
        nats=config.Nats(url=broker.url, prefix="Team.ml"),
        prompting=config.Prompting(session="night"),
    )
    connection = await nats.connect(broker.url)
    view = agents.Agents(nc=connection)
    async with service.running(settings, modules=helpers.MODULES):
        (found,) = await view.discover()
        assert found.prompt_subject == "agents.prompt.mlpm.team-ml.night"
        hearing = found.prompt(request(GATE))
        while not isinstance(asked := await anext(hearing), agents.Query):
            pass
    run_id = asked.prompt.split()[4]
    assert "this agent stops" in texts([chunk async for chunk in hearing])[-1]
    assert await view.discover() == []
    async with service.running(settings, modules=helpers.MODULES):
        (found,) = await view.discover()
        chunks = await heard(found, f"follow {run_id}", ["approve"])
        assert result(chunks).state == "succeeded"
    await view.close()
    await connection.close()


async def test_an_agent_that_wants_no_prompts_is_not_found(
    ray_cluster,  # noqa: ARG001 - the connection is the process's
    broker,
    tmp_path,
):
    settings = helpers.settings(
        tmp_path / "agent",
        nats=config.Nats(url=broker.url),
        prompting=config.Prompting(enabled=False),
    )
    connection = await nats.connect(broker.url)
    async with service.running(settings, modules=helpers.MODULES):
        assert await agents.Agents(nc=connection).discover() == []
    await connection.close()


async def signed(signer, subject, data):
    """Sign a prompt as the convention's callers do; give its headers."""
    who = agents.AgentId.new("$G", signer.public_key)
    header = await agents.sign_sender_header(signer=signer, id=who, sub=subject, payload=data)
    return {agents.AGENT_SENDER_HEADER: agents.serialize_sender_header(header)}


async def test_where_signatures_are_wanted_a_prompt_needs_one_that_counts(
    ray_cluster,  # noqa: ARG001 - the connection is the process's
    broker,
    tmp_path,
):
    signer = agents.signer_from_seed(signing.new_seed())
    settings = helpers.settings(
        tmp_path / "agent",
        nats=config.Nats(url=broker.url),
        security=config.Security(
            trusted_keys=(f"ada={signer.public_key}",),
            require_signatures=("submit", "cancel", "approve"),
        ),
    )
    connection = await nats.connect(broker.url)
    async with service.running(settings, modules=helpers.MODULES):
        (found,) = await agents.Agents(nc=connection).discover()
        _, error = await refused(found, request(NOOP))
        assert error.startswith("service error 403: not_authorized")
        data = json.dumps({"prompt": request(GATE)}).encode()
        headers = await signed(signer, found.prompt_subject, data)
        chunks = []
        async for told in stream(connection, found.prompt_subject, data, headers):
            chunks.append(told)
            if told["type"] == "query":
                await connection.publish(told["data"]["reply_subject"], b"approve")
            elif "'approve' takes a signature here" in told["data"]:
                break
        run_id = chunks[1]["data"].split()[1]
        _, error = await refused(found, f"cancel {run_id}")
        assert "'cancel' takes a signature here" in error
        *_, failed, _ = await replies(connection, found.prompt_subject, data, headers)
        assert "used before" in codec.decode(failed.data, problems.Problem).message
        assert result(await heard(found, f"status {run_id}")).state == "waiting"
    await connection.close()
