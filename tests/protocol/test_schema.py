"""What the schemas say is what the codec does, for every Struct of the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jsonschema
import msgspec
import pytest

from protocol import codec, commands, contract, problems, schema, wire
from scripts import draw_contract
from tests.protocol import samples

STRUCTS = schema.structs()
EXAMPLES = draw_contract.examples()
MESSAGES = {kind for one in contract.channels() for kind in (*one.bodies, *one.replies)}


def valid(name: str, document: Any) -> bool:
    return not list(jsonschema.Draft202012Validator(schema.schema(name)).iter_errors(document))


def taken(kind: type[msgspec.Struct], document: Any) -> bool:
    try:
        codec.decode(msgspec.json.encode(document), kind)
    except codec.ProtocolError:
        return False
    return True


def test_committed_files_are_current():
    wanted = draw_contract.documents()
    stale = [path.name for path, text in wanted.items() if _read(path) != text]
    assert not stale, "run: python scripts/draw_contract.py"
    assert set(draw_contract.SCHEMAS.glob("*.json")) <= set(wanted)


def _read(path: Any) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize("name", [*STRUCTS, *schema.UNIONS])
def test_every_schema_is_one_and_complete_in_itself(name):
    made = schema.schema(name)
    jsonschema.Draft202012Validator.check_schema(made)
    assert set(references(made)) <= {f"#/$defs/{one}" for one in made["$defs"]}


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for one in value.values() for found in references(one)]
    return [found for one in value for found in references(one)] if isinstance(value, list) else []


@pytest.mark.parametrize("encoding", [codec.JSON, codec.MSGPACK])
@pytest.mark.parametrize("make", [samples.minimal, samples.full])
@pytest.mark.parametrize("name", STRUCTS)
def test_every_struct_survives_the_wire(name, make, encoding):
    said = make(STRUCTS[name])
    heard = codec.decode(codec.encode(said, encoding), STRUCTS[name], encoding)
    assert heard == said


@pytest.mark.parametrize("make", [samples.minimal, samples.full])
@pytest.mark.parametrize("name", STRUCTS)
def test_what_is_sent_is_valid_by_its_schema(name, make):
    sent = json.loads(codec.encode(make(STRUCTS[name])))
    jsonschema.validate(sent, schema.schema(name), jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", STRUCTS)
def test_schema_and_codec_agree_on_unknown_fields(name):
    document = json.loads(codec.encode(samples.minimal(STRUCTS[name]))) | {"newer": 1}
    open_to_newer = issubclass(STRUCTS[name], wire.Fact)
    assert valid(name, document) is open_to_newer
    assert taken(STRUCTS[name], document) is open_to_newer


@pytest.mark.parametrize("name", STRUCTS)
def test_schema_and_codec_agree_on_what_must_be_there(name):
    document = json.loads(codec.encode(samples.minimal(STRUCTS[name])))
    for required in schema.components()[name]["required"]:
        lacking = {key: value for key, value in document.items() if key != required}
        assert not valid(name, lacking), required
        assert not taken(heard_as(name), lacking), required


def heard_as(name: str) -> Any:
    """Give what a reader of the channel expects: for one of several, all of them."""
    unions = schema.UNIONS.values()
    return next((one for one in unions if STRUCTS[name] in one.__args__), STRUCTS[name])


@pytest.mark.parametrize(
    ("parts", "right"),
    [
        ({"template": "t"}, True),
        ({"template": "t", "pipeline": None}, True),
        ({"pipeline": {"name": "p", "stages": [{"id": "a", "use": "x"}]}}, True),
        ({"pipeline": {"name": "p", "stages": []}}, False),
        ({"template": "t", "pipeline": {"name": "p", "stages": [{"id": "a", "use": "x"}]}}, False),
        ({}, False),
        ({"template": None}, False),
    ],
)
def test_schema_and_codec_agree_that_a_request_has_a_pipeline_or_a_template(parts, right):
    document = {"request_id": "r", "requester": "o", **parts}
    assert valid("PipelineRequest", document) is right
    assert taken(commands.PipelineRequest, document) is right


def test_a_reply_and_an_event_of_the_same_name_are_told_apart():
    assert schema.components()["RunAccepted"]["required"] == ["run_id", "request_id"]
    assert "pipeline" in schema.components()["events.RunAccepted"]["required"]


def test_a_field_is_described_by_what_stands_under_it():
    fields = schema.components()["Stage"]["properties"]
    assert fields["timeout_s"]["description"] == "Per attempt; the work is really stopped."
    assert "description" in schema.components()["Problem"]["properties"]["path"]


def test_times_are_marked_as_times():
    fields = schema.components()["RunStatus"]["properties"]
    assert fields["accepted_at"]["format"] == "date-time"
    assert {"type": "string", "format": "date-time"} in fields["ended_at"]["anyOf"]


def test_every_message_has_an_example():
    wanted = {schema.name_of(kind) for kind in (*MESSAGES, problems.Problem)}
    assert set(EXAMPLES) == wanted


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_valid_and_decodes_to_what_it_says(name):
    example = EXAMPLES[name]
    jsonschema.validate(example, schema.schema(name), jsonschema.Draft202012Validator)
    decoded = codec.decode(json.dumps(example).encode(), STRUCTS[name])
    assert within(example, spelt_out(decoded)), "a field was not understood"


def spelt_out(value: Any) -> Any:
    """Write a message with every field, those at their default too."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        tag = value.__struct_config__.tag
        named = {one.encode_name: spelt_out(getattr(value, one.name)) for one in fields}
        return {"type": tag, **named} if tag else named
    if isinstance(value, dict):
        return {key: spelt_out(one) for key, one in value.items()}
    if isinstance(value, list):
        return [spelt_out(one) for one in value]
    return msgspec.to_builtins(value)


def within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and within(one, whole[key]) for key, one in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    return bool(part == whole)


def test_the_client_does_without_the_schemas():
    code = "import sys, protocol.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"protocol.schema", "protocol.contract", "protocol.asyncapi"}
