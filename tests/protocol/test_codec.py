"""Bytes to Struct: what is refused, and where it says the mistake is."""

from __future__ import annotations

import datetime as dt
import math
import re
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import chain, codec, commands, events, pipelines, problems, subjects

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
GOOD = {
    "request_id": "r1",
    "requester": "orchestrator",
    "pipeline": {
        "name": "p",
        "stages": [
            {"id": "load", "use": "ingest.table", "with": {"uri": "file:a.csv"}},
            {"id": "fit", "use": "train.model", "inputs": {"train": "load"}, "retry": {}},
        ],
    },
    "options": {"priority": 5},
}


def refused(document: object) -> codec.ProtocolError:
    data = document if isinstance(document, bytes) else msgspec.json.encode(document)
    with pytest.raises(codec.ProtocolError) as caught:
        codec.decode(data, commands.PipelineRequest)
    return caught.value


def took_s(work) -> float:
    """Give the processor's seconds."""
    began = time.process_time()
    work()
    return time.process_time() - began


def commit(number: int, previous: str, **changes: object) -> events.Commit:
    made = events.Commit(
        run_id="r",
        number=number,
        epoch=1,
        owner="a",
        at=NOW,
        previous=previous,
        events=[events.RunStarted(at=NOW, owner="a", epoch=1)],
    )
    return msgspec.structs.replace(made, **changes)


def journal(count: int) -> list[bytes]:
    stored: list[bytes] = []
    for number in range(1, count + 1):
        stored.append(codec.encode(commit(number, chain.digest(stored[-1]) if stored else "")))
    return stored


def test_all_problems_are_reported_at_once_with_their_paths():
    bad = msgspec.json.decode(msgspec.json.encode(GOOD))
    bad["request_id"] = "a b"
    bad["pipeline"]["stages"][0]["wiht"] = {}
    bad["pipeline"]["stages"][1]["retry"] = {"max_attempts": 0}
    bad["options"]["cache"] = "usee"
    found = {one.path: one for one in refused(bad).problems}
    assert set(found) == {
        "$.request_id",
        "$.pipeline.stages[0].wiht",
        "$.pipeline.stages[1].retry.max_attempts",
        "$.options.cache",
    }
    assert found["$.pipeline.stages[0].wiht"].hint == "did you mean 'with'?"
    assert found["$.options.cache"].hint == "did you mean 'use'?"


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":NaN}', b'{"request_id":Infinity}', b"\xff\xfe"])
def test_what_is_not_json_is_named_so(data):
    assert refused(data).problem.code == "invalid_json"


def test_a_depth_bomb_is_refused():
    for depth in (80, 100_000):
        value = b"[" * depth + b"]" * depth
        data = b'{"request_id":"a","requester":"b","template":"t","params":{"x":' + value + b"}}"
        assert refused(data).problem.code == "invalid_json"


def test_an_id_with_a_final_line_feed_is_refused():
    assert refused({**GOOD, "request_id": "r1\n"}).problem.path == "$.request_id"


def test_exactly_one_of_pipeline_and_template_is_needed():
    assert "both are" in refused({**GOOD, "template": "t"}).problem.message
    assert "neither is" in refused({"request_id": "a", "requester": "b"}).problem.message


def test_an_oversized_message_is_refused_before_it_is_read():
    with pytest.raises(codec.PayloadTooLarge):
        codec.decode(b"{" * 11, commands.PipelineRequest, max_bytes=10)


def test_an_unknown_content_type_is_refused():
    with pytest.raises(codec.UnknownEncoding):
        codec.decode(b"", commands.RunQuery, "text/xml")


def test_messagepack_cannot_smuggle_in_nan():
    request = {"request_id": "r", "requester": "o", "template": "t", "params": {"x": [math.nan]}}
    with pytest.raises(codec.NotFinite):
        codec.decode(msgspec.msgpack.encode(request), commands.PipelineRequest, codec.MSGPACK)


def test_a_commit_that_could_not_be_read_again_is_not_written():
    bad = events.StageSucceeded(at=NOW, stage="s", attempt=1, metrics={"m": math.nan})
    with pytest.raises(codec.NotFinite):
        codec.encode(commit(1, "", events=[bad]))


def test_unknown_fields_are_ignored_in_facts_and_refused_in_commands():
    fact = codec.decode(b'{"run_id":"r","request_id":"q","newer":1}', commands.RunAccepted)
    assert fact.run_id == "r"
    with pytest.raises(codec.Invalid):
        codec.decode(b'{"run_id":"r","newer":1}', commands.RunQuery)


@settings(max_examples=60, deadline=None)
@given(
    params=st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text() | st.none()),
    priority=st.integers(0, 9),
    encoding=st.sampled_from([codec.JSON, codec.MSGPACK]),
)
def test_a_request_survives_both_encodings(params, priority, encoding):
    request = commands.PipelineRequest(
        request_id="r",
        requester="o",
        template="t",
        params=params,
        options=pipelines.Options(priority=priority),
    )
    data = codec.encode(request, encoding)
    assert codec.decode(data, commands.PipelineRequest, encoding) == request


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_mutated_request_raises_nothing_but_protocol_errors(data):
    document = msgspec.json.decode(msgspec.json.encode(GOOD))
    node, spots = document, []
    stack = [document]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        spots += [(node, key) for key in keys]
        stack += [node[key] for key in keys if isinstance(node[key], dict | list)]
    node, key = data.draw(st.sampled_from(spots))
    node[key] = data.draw(st.none() | st.integers() | st.text() | st.lists(st.none()) | st.just({}))
    try:
        codec.decode(msgspec.json.encode(document), commands.PipelineRequest)
    except codec.ProtocolError as error:
        for problem in error.problems:
            parts = re.findall(r"\.([\w-]+)|\[(\d+)\]", problem.path)
            at = document
            for name, index in parts[:-1]:
                at = at[name] if name else at[int(index)]


def test_a_sound_journal_has_no_findings():
    assert chain.verify(journal(4), "r") == []


def test_each_kind_of_damage_is_found():
    stored = journal(4)
    missing = chain.verify([stored[0], *stored[2:]])
    assert [(one.position, one.fault) for one in missing] == [
        (2, "wrong_number"),
        (2, "wrong_previous"),
    ]
    changed = chain.verify([stored[0].replace(b'"owner":"a"', b'"owner":"b"'), *stored[1:]])
    assert [(one.position, one.fault) for one in changed] == [(2, "wrong_previous")]
    assert chain.verify([b"{", stored[1]])[0].fault == "undecodable"
    assert chain.verify(stored, "other")[0].fault == "wrong_run"
    older = codec.encode(commit(2, chain.digest(stored[0]), epoch=0))
    assert [one.fault for one in chain.verify([stored[0], older])] == ["epoch_went_back"]


def test_the_same_request_is_the_same_run_and_fits_a_subject():
    run = subjects.run_id_for("orch", "a b/ü.2026" * 20)
    assert run == subjects.run_id_for("orch", "a b/ü.2026" * 20)
    assert subjects.token(run)
    assert subjects.run_id_for("a", "b/c") != subjects.run_id_for("a/b", "c")


def test_subjects_are_read_as_they_are_built():
    names = subjects.Subjects("my.team")
    place = names.read_event(names.event("r", "s", "failed"))
    assert place == subjects.EventPlace("r", "s", "failed")
    assert names.read_journal(names.run_journal("r")) == "r"
    assert names.read_ticket(names.ticket(9, "r")) == (9, "r")
    assert names.read_event("my.team.ml.alert.info") is None
    assert names.journal_stream == "MY_TEAM_ML_JOURNAL"


@pytest.mark.parametrize("bad", ["", "a.b", "*", ">", "a b", "a\n", "x" * 65])
def test_an_unsafe_token_never_becomes_a_subject(bad):
    with pytest.raises(subjects.UnsafeToken):
        subjects.Subjects().run_journal(bad)


@pytest.mark.parametrize(
    "stages",
    [
        [{"id": 1, "use": "x" * 20, "nedes": []}] * 20_000,
        [{"id": "a", "use": "b", "inputs": {f"in{n}": n for n in range(60_000)}}],
        [{"id": "a", "use": "b"} | {f"{'needs' * 10}{n}": n for n in range(10_000)}],
    ],
    ids=["stages", "inputs", "fields"],
)
def test_a_request_with_very_many_mistakes_costs_no_more_than_those_that_are_told(stages):
    wrong = GOOD | {"pipeline": {"name": "p", "stages": stages}}
    assert 300_000 < len(msgspec.json.encode(wrong)) <= codec.MAX_BYTES
    assert took_s(lambda: refused(wrong)) < 1
    assert len(refused(wrong).problem.problems) == problems.MAX_PROBLEMS


def test_what_is_told_of_a_mistake_does_not_repeat_a_large_value():
    stages = [{"id": "a", "use": "b", "on_failure": "f" * 900_000}]
    told = refused(GOOD | {"pipeline": {"name": "p", "stages": stages}}).problem
    assert (told.path, len(told.message) < 2_000) == ("$.pipeline.stages[0].on_failure", True)
