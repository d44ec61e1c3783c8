"""The main job, as the README promises it."""

from __future__ import annotations

import json
import pathlib

import psutil
import pytest

from tests.acceptance import conftest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("agent"),
]


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Run the demo two times in one folder, and list the processes that were left."""
    program = conftest.Program(tmp_path_factory.mktemp("demo"))
    first, second = program.json("demo"), program.json("demo")
    return program.folder, first, second


def test_both_models_beat_their_baselines_by_more_than_chance(twice):
    for result in twice[1]:
        assert result["state"] == "succeeded"
        assert result["better_by"][0] > 0, result


def test_both_models_are_registered_once(twice):
    assert [result["registered"] for result in twice[1]] == ["1", "1"]
    assert [result["registered"] for result in twice[2]] == [None, None]
    assert [result["champion"] for result in twice[2]] == ["1", "1"]


def test_the_triage_answers_and_goes_on_answering(twice):
    for results in twice[1:]:
        (answered,) = [each for each in results if each["answer"] is not None]
        assert answered["pipeline"] == "finding-triage"
        assert answered["answer"]["version"] == "1"
        assert {answered["answer"]["said"], answered["answer"]["actual"]} <= {
            "false_positive",
            "true_positive",
        }


def test_there_is_no_demo_of_another_name(tmp_path):
    done = conftest.Program(tmp_path)("demo", "weather")
    assert done.returncode != 0
    assert "there is no demo 'weather'" in done.stdout + done.stderr


def test_reports_and_plots_are_on_disk(twice):
    for result in twice[1]:
        page = pathlib.Path(result["report"]).read_text()
        assert page.lower().startswith("<!doctype html>")
        assert result["plots"]
        assert all(pathlib.Path(plot).stat().st_size > 500 for plot in result["plots"])


def test_the_second_time_takes_from_the_cache(twice):
    for result in twice[2]:
        assert result["cached"] >= 8, result


def test_nothing_is_left_running(twice):
    folder = str(twice[0])
    left = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = " ".join(process.info["cmdline"] or [])
        if folder in line or (process.info["cwd"] or "").startswith(folder):
            left.append(line)
    assert not left


def test_the_agents_log_has_no_error(twice):
    log = (twice[0] / ".mlpm" / "agent.log").read_text()
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert not [e for e in entries if e["level"] in {"error", "critical"}]
