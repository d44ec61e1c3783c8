"""The options that stand anywhere, and the request files."""

from __future__ import annotations

import pathlib

from agent.cli import files, session


def test_common_options_are_taken_from_anywhere():
    options, rest = session.split(
        ["--json", "runs", "--set", "a=b", "--limit", "3", "--set=c=d", "--url", "nats://x"]
    )
    assert rest == ["runs", "--limit", "3"]
    assert options == session.Options(json=True, overrides=("a=b", "c=d"), url="nats://x")


def test_the_config_file_can_be_joined_by_an_equals_sign():
    options, rest = session.split(["config", "--config=a.toml"])
    assert options.config == pathlib.Path("a.toml")
    assert rest == ["config"]


def test_nothing_after_two_dashes_is_taken():
    options, rest = session.split(["run", "--", "--json"])
    assert not options.json
    assert rest == ["run", "--", "--json"]


def test_a_pipeline_file_is_wrapped_into_a_request(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: p\nstages: [{id: a, use: x.y}]\n")
    request = files.read(path)
    assert request["pipeline"]["name"] == "p"
    assert request["request_id"].startswith("cli-")


def test_a_template_file_is_a_request_already(tmp_path):
    path = tmp_path / "p.json"
    path.write_text('{"template": "finding-triage", "params": {"uri": "a"}, "request_id": "r"}')
    request = files.read(path)
    assert request["request_id"] == "r"
    assert "pipeline" not in request
