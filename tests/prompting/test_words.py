"""What can be said to the agent, and how it tells what happened: pure functions."""

from __future__ import annotations

import datetime as dt
import typing

import msgspec
import pytest

from agent.prompting import convention, orders, sentences
from protocol import codec, commands, events, problems
from tests.protocol import samples

AT = dt.datetime(2026, 11, 23, 9, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("help", orders.Help()),
        ("  Follow r1 ", orders.Follow(run_id="r1")),
        ("STATUS r1", commands.RunQuery(run_id="r1")),
        ("status\nr1", commands.RunQuery(run_id="r1")),
        ("runs", commands.RunListQuery(limit=20)),
        ("cancel r1", commands.Cancel(run_id="r1", by="agents.prompt")),
        (
            "cancel r1 not  needed",
            commands.Cancel(run_id="r1", by="agents.prompt", reason="not needed"),
        ),
        ("resume r1", commands.Resume(run_id="r1", by="agents.prompt")),
        ("stages", commands.CatalogQuery()),
        ("stages ingest.", commands.CatalogQuery(prefix="ingest.")),
    ],
)
def test_a_word_is_a_command_of_the_contract(text, order):
    assert orders.read(convention.Envelope(text)) == order


@pytest.mark.parametrize("text", ["runs all", "stages a b", "help me", "resume r1 now", "cancel"])
def test_what_is_said_beside_a_word_is_never_ignored(text):
    with pytest.raises(orders.NotUnderstood):
        orders.read(convention.Envelope(text))


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"approve", orders.Answer(approved=True, comment="")),
        (b" Approve  go on ", orders.Answer(approved=True, comment="go on")),
        (b'{"prompt": "deny \\u00e4"}', orders.Answer(approved=False, comment="ä")),
    ],
)
def test_a_gate_s_answer_is_a_word_and_a_comment(data, answer):
    assert orders.answer(data, 100) == answer


@pytest.mark.parametrize("data", [b"approved", b"yes", b"", b"\xff", b"{}", b"approve" + b"x" * 99])
def test_nothing_else_is_an_answer(data):
    with pytest.raises(codec.ProtocolError):
        orders.answer(data, 100)


@pytest.mark.parametrize("kind", typing.get_args(events.AnyEvent), ids=lambda kind: kind.__name__)
def test_every_event_is_told_in_a_line(kind):
    told = sentences.of_event(samples.minimal(kind))
    assert told
    assert "\n" not in told


def test_of_elements_only_trouble_is_told():
    problem = problems.Problem("data_fault", "bad")
    began = events.StageStarted(at=AT, stage="a", attempt=1, element=3)
    assert sentences.of_event(began) is None
    failed = events.StageFailed(at=AT, stage="a", attempt=1, element=3, problem=problem)
    assert sentences.of_event(failed) == "stage a[3] failed: data_fault: bad"


def test_of_very_many_stages_the_first_are_told():
    one = commands.StageStatus(id="s", use="sample.noop", state="pending")
    found = commands.RunStatus(
        run_id="r1",
        request_id="q",
        requester="ada",
        pipeline="p",
        state="running",
        accepted_at=AT,
        stages=[one] * 1000,
    )
    lines = sentences.of_status(found).split("\n")
    assert lines[0] == "p r1 running, accepted 2026-11-23 09:00:00 UTC from ada"
    assert len(lines) == 102
    assert lines[-1] == "… and 900 more stages"


def test_a_header_is_one_plain_short_line():
    assert convention.header("a\r\nNats-Evil: 1\tä") == "a Nats-Evil: 1 ?"
    assert len(convention.header("x" * 1000)) == 300


def test_an_attachment_is_base64_on_the_wire():
    chunk = msgspec.json.decode(convention.response("t", [convention.Attachment("f", b"\xff")]))
    assert chunk["data"]["attachments"] == [{"filename": "f", "content": "/w=="}]
