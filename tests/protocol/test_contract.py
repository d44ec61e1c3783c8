"""The table of the contract, and its AsyncAPI document, say what the code does."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import tarfile
from typing import Any

import jsonschema
import pytest

from agent import doors
from agent.bus import streams
from agent.conductor import desk
from agent.serving import counter
from protocol import asyncapi, cloudevents, codec, contract, events, schema, subjects
from scripts import draw_contract

NAMES = subjects.Subjects()
CHANNELS = contract.channels()
DOCUMENT = json.loads(draw_contract.ASYNCAPI.read_text(encoding="utf-8"))
SPECS = "@asyncapi/specs@6.11.1"


def filled(address: str) -> str:
    return re.sub(r"\{[a-z_]+\}", "x", address)


def built(names: subjects.Subjects) -> set[str]:
    actions = ("validate", "status", "list", "cancel", "resume", "approve")
    return {
        names.pipeline_request,
        names.pipeline_queue,
        names.stage_catalog,
        names.training_request,
        names.training_cancel,
        names.deadletter,
        *(names.pipeline(action) for action in actions),
        *(names.model(action) for action in ("list", "promote", "rollback")),
        *(names.endpoint(action) for action in ("list", "rollback", "undeploy")),
        *(names.serving(action) for action in ("deploy", "halt", "rollback", "undeploy", "list")),
        names.predict("x"),
        names.outcome("x"),
        names.run_journal("x"),
        names.event("x", "x", "x"),
        names.progress("x", "x"),
        names.work("x"),
        names.report("x"),
        names.assignment_progress("x"),
        names.assignment_cancel("x"),
        names.presence("x"),
        names.control("x"),
        names.audit_request,
        names.alert("x"),
        names.audit("x"),
    }


@pytest.mark.parametrize("prefix", ["codeguardian", "a.b", "my-run_id-bus"])
def test_every_channel_is_a_subject_and_every_subject_a_channel(prefix):
    names = subjects.Subjects(prefix)
    assert {filled(one.address) for one in contract.channels(names)} == built(names)


def test_every_builder_of_subjects_is_in_the_contract_or_known_to_be_internal():
    in_contract = {
        "pipeline_request",
        "pipeline_queue",
        "pipeline",
        "stage_catalog",
        "model",
        "endpoint",
        "serving",
        "predict",
        "outcome",
        "run_journal",
        "event",
        "progress",
        "training_request",
        "training_cancel",
        "work",
        "report",
        "assignment_progress",
        "assignment_cancel",
        "presence",
        "control",
        "audit_request",
        "alert",
        "audit",
        "deadletter",
    }
    patterns = {
        "all_journals",
        "run_events",
        "all_events",
        "events_of",
        "run_progress",
        "all_alerts",
        "all_work",
        "all_reports",
        "all_presence_keys",
        "audits_of",
        "all_nonces",
        "all_artifacts",
        "all_predictions",
        "all_outcomes",
        "all_endpoint_keys",
    }
    internal = {"ticket", "tickets", "nudge", "worker", "presence_key", "endpoint_key", "nonce"}
    public = {name for name in vars(subjects.Subjects) if not name.startswith("_")}
    rest = public - in_contract - patterns - internal - {"prefix"}
    others = {one for one in rest if not one.endswith(("_stream", "_bucket", "_consumer"))}
    readers = {"read_event", "read_journal", "read_ticket", "read_work"}
    assert others == readers | {"read_predict", "read_outcome"}


def test_what_is_served_is_what_the_agent_registers():
    registered = {
        one.subject: ((one.takes,), (one.gives,))
        for one in doors.doors(
            NAMES,
            desk.Desk,
            desk.Desk.submit,
            counter.Counter,
            {"rollback": counter.Counter.roll_back, "undeploy": counter.Counter.undeploy},
        )
    }
    told = {
        one.address: (one.bodies, one.replies)
        for one in CHANNELS
        if one.queue == subjects.SERVICE and one.served
    }
    assert told == registered


def test_streams_are_those_that_the_agent_makes():
    made = {one.name: one for one in streams.configs(NAMES, 1)}
    for one in CHANNELS:
        if one.stream is not None and one.served:
            config = made[one.stream.name]
            assert (config.retention or "limits") == one.stream.retention
            dotted = one.address.replace("{capability}", ">")
            assert config.subjects == [re.sub(r"\{[a-z_]+\}", "*", dotted)]


def test_severities_are_those_of_alerts():
    fields = schema.components()["Alert"]["properties"]
    assert sorted(contract.SEVERITIES) == fields["severity"]["enum"]


def test_every_reference_leads_somewhere():
    found = list(references(DOCUMENT))
    assert len(found) > 100
    for reference in found:
        assert resolve(reference) is not None, reference


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [one for child in value.values() for one in references(child)]
    return [one for child in value for one in references(child)] if isinstance(value, list) else []


def resolve(reference: str) -> Any:
    place = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        place = place[part]
    return place


def test_every_operation_names_messages_of_its_own_channel():
    for operation in DOCUMENT["operations"].values():
        channel = operation["channel"]["$ref"]
        assert all(one["$ref"].startswith(f"{channel}/messages/") for one in operation["messages"])
        reply = operation.get("reply", {"channel": {"$ref": ""}, "messages": []})
        start = f"{reply['channel']['$ref']}/messages/"
        assert all(one["$ref"].startswith(start) for one in reply["messages"])


def test_every_channel_has_an_operation_and_names_its_parameters():
    used = {one["channel"]["$ref"].rpartition("/")[2] for one in DOCUMENT["operations"].values()}
    for name, channel in DOCUMENT["channels"].items():
        tokens = set(re.findall(r"\{([a-z_]+)\}", channel["address"] or ""))
        assert set(channel.get("parameters", {})) == tokens
        assert name in used or channel["address"] is None


def test_every_request_can_be_refused_with_the_error_headers():
    problem = DOCUMENT["channels"]["replies"]["messages"]["Problem"]
    assert problem["headers"]["required"] == ["Nats-Service-Error-Code", "Nats-Service-Error"]
    asked = [one for one in CHANNELS if one.queue == subjects.SERVICE]
    for one in asked:
        replies = DOCUMENT["operations"][f"receive.{one.name}"]["reply"]["messages"]
        assert {"$ref": "#/channels/replies/messages/Problem"} in replies


@pytest.mark.parametrize("kind", contract.EVENTS, ids=lambda kind: kind.__name__)
def test_an_announced_event_has_the_headers_and_subject_of_the_document(kind):
    channel = DOCUMENT["channels"]["event"]
    message = channel["messages"][schema.name_of(kind)]
    example = message["examples"][0]
    jsonschema.validate(example["headers"], message["headers"])
    body = json.dumps(example["payload"]).encode()
    heard = cloudevents.read(example["headers"], body)
    assert isinstance(heard.event, kind)
    assert cloudevents.token(heard.event) in channel["parameters"]["type"]["enum"]
    wrong = example["headers"] | {"ce-type": "codeguardian.ml.other"}
    assert not jsonschema.Draft7Validator(message["headers"]).is_valid(wrong)


def test_every_example_of_the_document_is_valid_there():
    shown = 0
    for channel in DOCUMENT["channels"].values():
        for message in channel["messages"].values():
            for example in message.get("examples", []):
                payload = {**message["payload"], "components": DOCUMENT["components"]}
                jsonschema.Draft202012Validator(payload).validate(example["payload"])
                shown += 1
    assert shown >= len(draw_contract.examples())


def test_every_example_on_the_page_decodes():
    page = draw_contract.PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- generated: example (\S+) -->\n```json\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```json")
    for name, text in blocks:
        codec.decode(text.encode(), schema.structs()[name])


def test_a_commit_example_names_its_run_in_every_event_id():
    commit = codec.decode(json.dumps(draw_contract.examples()["Commit"]).encode(), events.Commit)
    headers, _ = cloudevents.write(commit, 1)
    assert headers["ce-id"] == f"{commit.run_id}-{commit.number}-1"


def test_the_document_can_be_made_for_another_prefix():
    made = asyncapi.document({}, subjects.Subjects("other.bus"))
    addresses = [one["address"] for one in made["channels"].values() if one["address"]]
    assert all(address.startswith("other.bus.") for address in addresses)


def test_the_document_is_valid_by_the_official_asyncapi_schema(official):
    assert not [error.message for error in official.iter_errors(DOCUMENT)]


@pytest.mark.parametrize("breakage", ["operations", "channels", "info"])
def test_the_official_schema_would_refuse_a_broken_document(official, breakage):
    assert not official.is_valid({**DOCUMENT, breakage: {"broken": True}})


@pytest.fixture(scope="module")
def official(pytestconfig: pytest.Config) -> jsonschema.Draft7Validator:
    """Give the schema that the AsyncAPI project publishes on npm; no Python package ships it."""
    folder = pathlib.Path(pytestconfig.cache.mkdir("asyncapi-specs"))
    pack = next(folder.glob("*-6.11.1.tgz"), None) or _fetch(folder)
    with tarfile.open(pack) as archive:
        member = archive.extractfile(f"package/schemas/{asyncapi.SPECIFICATION}.json")
        assert member is not None
        return jsonschema.Draft7Validator(json.load(member))


def _fetch(folder: pathlib.Path) -> pathlib.Path:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("the official AsyncAPI schema comes from npm, which is not installed")
    try:
        done = subprocess.run(
            [npm, "pack", SPECS, "--silent"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the official AsyncAPI schema comes from npm, which does not answer")
    if done.returncode != 0:
        pytest.skip(f"npm does not give the official AsyncAPI schema: {done.stderr[-200:]}")
    return folder / done.stdout.strip().splitlines()[-1]
