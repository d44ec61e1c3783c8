"""The program beside a running agent: every command, on the examples of the documentation."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("agent")]
WINE = "docs/examples/wine.yaml"


@pytest.fixture(scope="module")
def wine(program):
    """Run the example to its end."""
    done = program("run", WINE, "--follow", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return entries[0]["run_id"], [entry["event"] for entry in entries]


def test_following_a_run_tells_every_event_to_its_end(wine):
    _, told = wine
    assert told[0]["type"] == "run.accepted"
    assert told[-1]["type"] == "run.succeeded"
    done = {event["stage"] for event in told if event["type"] == "stage.succeeded"}
    assert done == {"load", "split", "scaled", "train", "score", "keep", "page"}


def test_training_is_delegated_and_the_model_registered(wine):
    types = [event["type"] for event in wine[1]]
    assert "stage.delegated" in types
    assert "stage.registered" in types


def test_status_and_list_agree_with_the_events(program, wine):
    run_id, _ = wine
    assert program.json("status", run_id)["state"] == "succeeded"
    listed = {run["run_id"]: run["state"] for run in program.json("runs")["runs"]}
    assert listed[run_id] == "succeeded"


def test_a_replay_tells_the_same_events_again(program, wine):
    run_id, told = wine
    done = program("events", run_id, "--replay", "--no-follow", "--json")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == told


def test_a_replay_can_be_narrowed_to_a_stage_and_a_type(program, wine):
    done = program(
        "events", wine[0], "--replay", "--no-follow", "--stage", "train", "--type", "succeeded"
    )
    (line,) = done.stdout.splitlines()
    assert "train" in line
    assert "succeeded" in line


def test_the_journal_verifies(program, wine):
    verdict = program.json("verify", wine[0])
    assert verdict["ok"]
    assert verdict["commits"] >= 3


def test_the_same_pipeline_again_comes_from_the_cache_and_why_says_so(program, wine):
    again = program.json("run", WINE)["run_id"]
    assert program("events", again, "--replay", "--type", "nothing", "--no-follow").returncode == 0
    followed = program("run", WINE, "--follow", "--json")
    run_id = json.loads(followed.stdout.splitlines()[0])["run_id"]
    cached = {s["id"] for s in program.json("status", run_id)["stages"] if s.get("cached")}
    assert {"load", "split", "scaled", "train", "score"} <= cached
    assert program.json("why", run_id, "train")["cached"]
    assert not program.json("why", wine[0], "train").get("cached", False)


def test_a_changed_parameter_is_named_by_why(program, wine):
    text = (program.folder / WINE).read_text().replace("seed: 7", "seed: 8")
    (program.folder / "changed.yaml").write_text(text)
    followed = program("run", "changed.yaml", "--follow", "--json")
    run_id = json.loads(followed.stdout.splitlines()[0])["run_id"]
    differences = program.json("why", run_id, "split")["differences"]
    assert [difference["component"] for difference in differences] == ["params.seed"]
    assert wine[0] != run_id


def test_a_template_designs_its_pipeline_from_the_data(program, wine):
    done = program("run", "docs/examples/wine-template.yaml", "--follow", "--json")
    assert done.returncode == 0, done.stdout[-2000:]
    first = json.loads(done.stdout.splitlines()[0])["event"]
    (train,) = [s for s in first["pipeline"]["stages"] if s["id"] == "train"]
    assert train["with"]["model"] == "LogisticRegression"  # 178 rows are few
    assert wine


def test_a_fan_out_runs_one_branch_per_value(program):
    done = program("run", "docs/examples/by-cultivar.yaml", "--follow", "--json")
    assert done.returncode == 0, done.stdout[-2000:]
    run_id = json.loads(done.stdout.splitlines()[0])["run_id"]
    stages = {stage["id"]: stage for stage in program.json("status", run_id)["stages"]}
    assert len(stages["part"]["outputs"]["table"]) == 3


def test_a_gate_waits_until_it_is_denied_and_the_run_fails(program):
    text = (program.folder / "docs/examples/by-cultivar.yaml").read_text()
    gated = text.replace(
        "    with: {column: cultivar}\n    for_each",
        "    approval: {prompt: go on}\n    with: {column: cultivar}\n    for_each",
    )
    (program.folder / "gated.yaml").write_text(gated)
    run_id = program.json("run", "gated.yaml")["run_id"]
    waiting = ["events", run_id, "--replay", "--type", "approval_requested", "--no-follow"]
    for _ in range(50):
        if program(*waiting).stdout:
            break
    assert program("deny", run_id, "part", "--comment", "not today").returncode == 0
    for _ in range(50):
        if program.json("status", run_id)["state"] not in {"waiting", "running"}:
            break
    assert program.json("status", run_id)["state"] == "failed"


def test_a_finished_run_cannot_be_cancelled(program, wine):
    done = program("cancel", wine[0], "--json", "--no-wait")
    assert done.returncode == 1
    assert json.loads(done.stdout)["problem"]["code"] == "conflict"


def test_validate_tells_every_problem_of_a_request(program):
    (program.folder / "bad.yaml").write_text(
        "name: bad\nstages:\n  - {id: a, use: prepare.splt}\n  - {id: a, use: prepare.split}\n"
    )
    done = program("validate", "bad.yaml", "--json")
    assert done.returncode == 1
    codes = {problem["code"] for problem in json.loads(done.stdout)["problems"]}
    assert {"unknown_stage", "duplicate_id"} <= codes


def test_validate_forecasts_what_would_be_reused(program, wine):
    forecast = program.json("validate", WINE)["forecast"]
    assert {f["stage"]: f["reuse"] for f in forecast}["split"] == "hit"
    assert wine


def test_an_unknown_run_is_not_found(program):
    for command in ("status", "verify", "cancel"):
        done = program(command, "no-such-run", "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["problem"]["code"] == "not_found"


def test_doctor_finds_everything_well(program):
    found = program.json("doctor")
    assert found["level"] == "ok", found


def test_collection_leaves_everything_that_a_run_or_the_cache_refers_to(program, wine):
    before = program.json("gc", "--dry-run", "--grace-s", "0")
    assert before["deleted"] == 0
    assert before["kept"] > 0
    assert program.json("verify", wine[0])["ok"]
