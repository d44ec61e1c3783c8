"""The program as a person or a script calls it, where no agent runs."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest


class Done:
    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def mlpm(tmp_path):
    """Call the program in an empty folder."""

    def call(*arguments: str, **env: str) -> Done:
        command = [sys.executable, "-m", "agent", *arguments]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLPM_")}
        clean |= {"PYTHONPATH": str(pathlib.Path(__file__).parents[2]), "COLUMNS": "120"} | env
        return Done(
            subprocess.run(
                command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
            )
        )

    return call


PIPELINE = """
name: tiny
stages:
  - {id: load, use: ingest.table, with: {uri: data.csv}}
"""

NEEDS_AGENT = [
    ["agents"],
    ["audits"],
    ["runs"],
    ["status", "r1"],
    ["events"],
    ["cancel", "r1"],
    ["resume", "r1"],
    ["approve", "r1", "gate"],
    ["deny", "r1", "gate"],
    ["why", "r1", "load"],
    ["verify", "r1"],
    ["gc"],
    ["drain", "a1"],
    ["undrain", "a1"],
    ["capacity", "a1", "2"],
]


COMMANDS = [
    "up",
    "demo",
    "run",
    "validate",
    "stages",
    "templates",
    "doctor",
    "config",
    "schema",
    "keys",
]


def test_help_names_every_command(mlpm):
    done = mlpm("--help")
    assert done.code == 0
    for name in [*COMMANDS, *(arguments[0] for arguments in NEEDS_AGENT)]:
        assert f" {name} " in done.out, name


def test_help_comes_within_a_second(mlpm):
    mlpm("--help")
    started = time.perf_counter()
    mlpm("--help")
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("arguments", NEEDS_AGENT, ids=lambda a: a[0])
def test_without_an_agent_the_exit_code_is_3_and_the_hint_says_how_to_start_one(mlpm, arguments):
    done = mlpm(*arguments)
    assert done.code == 3
    assert "mlpm up" in done.err
    assert not done.out


@pytest.mark.parametrize("arguments", NEEDS_AGENT, ids=lambda a: a[0])
def test_without_an_agent_json_carries_the_problem_and_nothing_else(mlpm, arguments):
    done = mlpm(*arguments, "--json")
    assert done.code == 3
    assert done.json["problem"]["code"] == "unavailable"
    assert not done.err


def test_a_stale_address_file_is_told_from_a_running_agent(mlpm, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder = tmp_path / ".mlpm"
    folder.mkdir()
    address = {"nats_url": "nats://127.0.0.1:4222", "pid": gone.pid}
    (folder / "agent.json").write_text(json.dumps(address))
    done = mlpm("runs")
    assert done.code == 3
    assert "is gone" in done.err


def test_a_bus_that_is_not_there_is_unavailable(mlpm):
    done = mlpm("runs", "--url", "nats://127.0.0.1:9", "--json")
    assert done.code == 3
    assert done.json["problem"]["code"] == "unavailable"


def test_a_bus_without_an_agent_is_unavailable(mlpm, nats_url):
    done = mlpm("runs", "--url", nats_url, "--json")
    assert done.code == 3
    assert "no agent answers" in done.json["problem"]["message"]


@pytest.mark.parametrize("arguments", [["nope"], ["status"], ["runs", "--limit", "0"]])
def test_wrong_usage_exits_with_2_and_explains_itself(mlpm, arguments):
    done = mlpm(*arguments)
    assert done.code == 2
    assert "Usage" in done.err
    assert not done.out


def test_an_unknown_run_state_is_wrong_usage(mlpm):
    assert mlpm("runs", "--state", "happy").code == 2


def test_a_resume_parameter_without_a_stage_is_wrong_usage(mlpm):
    assert mlpm("resume", "r1", "--param", "x=1").code == 2


def test_a_setting_that_is_not_there_is_refused_with_its_source(mlpm):
    done = mlpm("config", MLPM_NATS__URLL="x")
    assert done.code == 1
    assert "MLPM_NATS__URLL" in done.err
    assert "nats.url" in done.err


def test_config_shows_values_with_their_source_and_hides_secrets(mlpm, tmp_path):
    (tmp_path / "mlpm.toml").write_text('[nats]\nurl = "nats://u:hush@host:4222"\n')
    shown = mlpm("config", "--json", "--set", "logs.level=debug").json
    assert shown["nats.url"] == {"value": "nats://***@host:4222", "source": "mlpm.toml"}
    assert shown["logs.level"] == {"value": "debug", "source": "flag --set logs.level"}


def test_up_can_print_the_configuration_instead_of_starting(mlpm):
    assert mlpm("up", "--print-config", "--json").json["data_dir"]["value"] == ".mlpm"


def test_stages_lists_and_explains(mlpm):
    cards = mlpm("stages", "--json").json
    assert "train.model" in {card["name"] for card in cards}
    (card,) = mlpm("stages", "prepare.split", "--json").json
    assert "test_fraction" in json.dumps(card["params"])
    assert mlpm("stages", "no.such", "--json").json["problem"]["code"] == "unknown_stage"


def test_templates_are_listed_with_their_parameters(mlpm):
    cards = mlpm("templates", "--json").json
    assert [card["name"] for card in cards] == [
        "tabular-classification",
        "tabular-regression",
        "time-series-forecast",
        "finding-triage",
        "image-classification",
        "text-classification",
    ]
    assert all("uri" in json.dumps(card["params"]) for card in cards)
    assert mlpm("templates", "nope").code == 1


def test_schema_lists_messages_and_prints_one(mlpm):
    assert "PipelineRequest" in mlpm("schema", "--json").json
    assert "request_id" in json.dumps(mlpm("schema", "PipelineRequest").json)
    done = mlpm("schema", "PipelineReqest")
    assert done.code == 1
    assert "PipelineRequest" in done.err


def test_doctor_checks_every_part_and_only_warns_that_no_agent_runs(mlpm):
    done = mlpm("doctor", "--json")
    levels = {finding["part"]: finding["level"] for finding in done.json["findings"]}
    assert done.code == 0, done.out
    assert levels["agent"] == "warn"
    for part in ("python", "packages", "layout", "data folder", "nats", "ray", "mlflow"):
        assert levels[part] == "ok", done.out
    assert levels["artifact store"] == "ok"


def test_doctor_fails_with_a_mend_where_a_server_is_away(mlpm):
    done = mlpm("doctor", "--json", "--set", "nats.url=nats://127.0.0.1:9")
    (finding,) = (f for f in done.json["findings"] if f["part"] == "nats")
    assert done.code == 1
    assert finding["level"] == "fail"
    assert finding["mend"]


@pytest.mark.parametrize(
    "file",
    [
        ("a.json", "{", "invalid_json"),
        ("a.yaml", "a: [", "invalid_json"),
        ("b.yaml", "- 1", "invalid_field"),
        ("c.yaml", "name: x\nstages: []\n", "invalid_field"),
        ("d.yaml", PIPELINE + "nmae: typo\n", "unknown_field"),
    ],
)
@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_broken_request_file_is_refused_before_any_agent_is_asked(mlpm, tmp_path, command, file):
    name, text, code = file
    (tmp_path / name).write_text(text)
    done = mlpm(command, name, "--json")
    assert done.code == 1
    assert done.json["problem"]["code"] == code, done.out


def test_a_missing_request_file_is_named(mlpm):
    done = mlpm("run", "absent.yaml")
    assert done.code == 1
    assert "absent.yaml" in done.err


def test_a_good_request_file_needs_an_agent(mlpm, tmp_path):
    (tmp_path / "tiny.yaml").write_text(PIPELINE)
    assert mlpm("run", "tiny.yaml").code == 3
