"""How the agent is discovered, and what it answers to messages good and bad."""

from __future__ import annotations

import msgspec
import pytest

from protocol import client, codec, commands, problems, subjects
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = helpers.MARKS
ENDPOINTS = {
    "request",
    "validate",
    "status",
    "list",
    "cancel",
    "resume",
    "approve",
    "catalog",
    "control",
    "endpoints",
    "rollback",
    "undeploy",
}
CODE = "Nats-Service-Error-Code"


def body(*stages, **changes):
    whole = {
        "request_id": "bad-1",
        "requester": "tester",
        "pipeline": {"name": "p", "stages": list(stages)},
    }
    return whole | changes


async def problems_of(ask, *stages, **changes):
    """Give the problems with which a request is refused, as (code, path, hint)."""
    headers, told = await helpers.ask_raw(
        ask._nats, ask.names.pipeline_request, body(*stages, **changes)
    )
    assert headers[CODE]
    assert headers["Nats-Service-Error"]
    problem = msgspec.convert(told, problems.Problem)
    return [(one.code, one.path, one.hint) for one in problem.problems or [problem]]


async def test_the_services_framework_finds_the_agent_and_its_endpoints(bus, ask):
    await ask.list()
    _, ping = await helpers.ask_raw(bus, "$SRV.PING.ml-pipeline-manager", b"")
    _, info = await helpers.ask_raw(bus, "$SRV.INFO.ml-pipeline-manager", b"")
    _, stats = await helpers.ask_raw(bus, "$SRV.STATS.ml-pipeline-manager", b"")
    assert ping["id"] == info["id"] == stats["id"]
    assert info["description"]
    assert {one["name"] for one in info["endpoints"]} == ENDPOINTS
    (request,) = [one for one in info["endpoints"] if one["name"] == "request"]
    assert request["metadata"]["request_schema"] == "PipelineRequest"
    assert request["queue_group"] == subjects.SERVICE
    (listing,) = [one for one in stats["endpoints"] if one["name"] == "list"]
    assert listing["num_requests"] >= 1


async def test_messagepack_is_answered_in_messagepack(bus, ask):
    asked = helpers.request(stage("a", "sample.noop"))
    headers = {subjects.CONTENT_TYPE: codec.MSGPACK}
    reply = await bus.request(
        ask.names.pipeline_request, codec.encode(asked, codec.MSGPACK), headers=headers
    )
    assert reply.headers[subjects.CONTENT_TYPE] == codec.MSGPACK
    accepted = codec.decode(reply.data, commands.RunAccepted, codec.MSGPACK)
    assert accepted.request_id == asked.request_id
    query = msgspec.msgpack.encode({"run_id": "nobody"})
    refused = await bus.request(ask.names.pipeline("status"), query, headers=headers)
    assert codec.decode(refused.data, problems.Problem, codec.MSGPACK).code == "not_found"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"run_id": 3}', "invalid_field"),
        (b'{"run_id": "a", "colour": 1}', "unknown_field"),
        (b'{"run_id": "a.>"}', "invalid_field"),
        (b'{"run_id": "*"}', "invalid_field"),
        (b'{"run_id": "../../etc/passwd"}', "invalid_field"),
        (b'{"run_id": "a\\n"}', "invalid_field"),
        (b'{"run_id": "nobody"}', "not_found"),
        (b"[" * 100_000, "invalid_json"),
    ],
)
async def test_a_bad_query_is_answered_with_its_problem(bus, ask, sent, code):
    headers, told = await helpers.ask_raw(bus, ask.names.pipeline("status"), sent)
    assert headers[CODE] == ("404" if code == "not_found" else "400")
    assert told["code"] == code
    assert code in {"invalid_json", "not_found"} or told["path"].startswith("$.")


async def test_an_unknown_content_type_is_refused_in_json(bus, ask):
    headers = {subjects.CONTENT_TYPE: "text/xml"}
    reply = await bus.request(ask.names.pipeline("status"), b"<run/>", headers=headers)
    assert codec.decode(reply.data, problems.Problem).code == "invalid_field"
    assert reply.headers[CODE] == "400"


async def test_a_request_of_too_many_stages_is_refused(ask):
    found = await problems_of(ask, *[stage(f"s{i}", "sample.noop") for i in range(10_001)])
    assert found == [("payload_too_large", "$.pipeline.stages", None)]


async def test_a_request_that_fits_the_bus_but_not_the_journal_is_refused(ask):
    large = {"name": "p", "description": "x" * 1_046_000, "stages": [stage("a", "sample.noop")]}
    ((code, path, _),) = await problems_of(ask, pipeline=large)
    assert (code, path) == ("payload_too_large", "$.pipeline")


async def test_a_wrong_type_and_an_unknown_field_are_told_with_their_paths(ask):
    found = await problems_of(
        ask,
        stage("a", "sample.add", timeout_s="soon"),
        stage("b", "sample.add", retires={"max_attempts": 2}),
        stage("c", "sample.add", retry={"max_attempts": 0}),
        options={"prioritty": 3},
    )
    assert ("unknown_field", "$.options.prioritty", "did you mean 'priority'?") in found
    assert ("unknown_field", "$.pipeline.stages[1].retires", "did you mean 'retry'?") in found
    paths = {path for _, path, _ in found}
    assert {"$.pipeline.stages[0].timeout_s", "$.pipeline.stages[2].retry.max_attempts"} <= paths


async def test_an_unknown_stage_is_told_with_a_near_name(ask):
    (found,) = await problems_of(ask, stage("a", "sample.ad"))
    assert found == ("unknown_stage", "$.pipeline.stages[0].use", "did you mean 'sample.add'?")


async def test_bad_parameters_are_told_with_their_paths(ask):
    found = await problems_of(
        ask,
        stage("a", "sample.sleep", {"seconds": "long", "def": True}),
        stage("b", "sample.spawn"),
    )
    assert {path for _, path, _ in found} == {
        "$.pipeline.stages[0].with.seconds",
        "$.pipeline.stages[0].with.def",
        "$.pipeline.stages[1].with.trace",
    }


async def test_a_cycle_is_told_with_its_stages(ask):
    found = await problems_of(
        ask,
        stage("a", "sample.noop", needs=["c"]),
        stage("b", "sample.noop", needs=["a"]),
        stage("c", "sample.noop", needs=["b"]),
    )
    assert [code for code, *_ in found] == ["cycle"]


async def test_all_problems_of_a_graph_are_told_at_once(ask):
    found = await problems_of(
        ask,
        stage("same", "sample.items"),
        stage("same", "sample.noop"),
        stage("needy", "sample.pass"),
        stage("lost", "sample.pass", inputs={"report": "nobody"}),
        stage("mismatch", "sample.pass", inputs={"report": "same"}),
        stage("run", "sample.noop"),
    )
    assert [(code, path) for code, path, _ in found] == [
        ("duplicate_id", "$.pipeline.stages[1].id"),
        ("invalid_field", "$.pipeline.stages[5].id"),
        ("unknown_input", "$.pipeline.stages[2].inputs.report"),
        ("unknown_input", "$.pipeline.stages[3].inputs.report"),
        ("type_mismatch", "$.pipeline.stages[4].inputs.report"),
    ]


@pytest.mark.parametrize("name", ["a.b", "*", ">", "../a", "a b", "", "a" * 65, "ä", "a\n"])
async def test_an_unsafe_id_is_refused_wherever_it_stands(ask, name):
    found = await problems_of(ask, stage(name, "sample.noop"), request_id=name)
    paths = {path for _, path, _ in found}
    assert {"$.request_id", "$.pipeline.stages[0].id"} <= paths


async def test_of_very_many_problems_as_many_are_told_as_fit(ask):
    found = await problems_of(ask, *[stage(f"s{i}", "sample.nop") for i in range(9000)])
    assert len(found) == 100
    assert {code for code, *_ in found} == {"unknown_stage"}


async def test_a_command_too_large_for_the_journal_is_refused_and_harms_no_run(
    ask, trace, tmp_path
):
    go = tmp_path / "go"
    held = stage("a", "service.work", {"trace": str(trace), "until": str(go)})
    run_id = await helpers.submit(ask, held)
    await helpers.wait_line(trace, "began")
    with pytest.raises(client.Refused) as refused:
        await ask.cancel(run_id, reason="x" * 600_000)
    assert refused.value.problem.code == "payload_too_large"
    go.touch()
    status = await helpers.ended(ask, run_id)
    assert (status.state, status.stages[0].attempt) == ("succeeded", 1)


async def test_exactly_one_of_pipeline_and_template_is_wanted(ask):
    for changes in ({"pipeline": None}, {"template": "tabular"}):
        found = await problems_of(ask, stage("a", "sample.noop"), **changes)
        assert [(code, path) for code, path, _ in found] == [("invalid_field", "$")]


async def test_validate_tells_what_a_request_would_be_refused_for_and_runs_nothing(ask, trace):
    bad = helpers.request(stage("a", "sample.ad"))
    report = await ask.validate(bad)
    assert not report.ok
    assert report.problems[0].code == "unknown_stage"
    good = helpers.request(stage("a", "service.work", {"trace": str(trace)}))
    assert (await ask.validate(good)).ok
    with pytest.raises(client.Refused) as refused:
        await ask.status(subjects.run_id_for(good.requester, good.request_id))
    assert refused.value.problem.code == "not_found"
    assert helpers.lines(trace) == []


async def test_the_catalog_describes_stages_by_name(ask):
    cards = {card.name: card for card in (await ask.catalog("sample.")).stages}
    assert set(cards) >= {"sample.noop", "sample.add"}
    assert not any(name.startswith("service.") for name in cards)
    assert [(port.name, port.kind, port.many) for port in cards["sample.add"].inputs] == [
        ("numbers", "metrics", True)
    ]


async def test_after_all_that_the_agent_runs_pipelines(ask):
    assert (await helpers.done(ask, stage("a", "sample.noop")))[0].state == "succeeded"
