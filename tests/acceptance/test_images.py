"""The image template beside a running agent: from a folder of pictures to a registered network."""

from __future__ import annotations

import json

import pytest

from tests.stages.frameworks import digits

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("agent")]
REQUEST = {
    "template": "image-classification",
    "params": {
        "uri": "digits",
        "name": "digits",
        "image_size": 32,
        "epochs": 2,
        "batch_size": 16,
        "learning_rates": [0.002],
        "on_bad": "quarantine",
    },
}


@pytest.fixture(scope="module")
def run(program):
    """Run the template on three digits, one of whose pictures is cut short."""
    table = digits.table(range(200)).arrow.to_pylist()
    for row in table:
        place = program.folder / "digits" / row["label"]
        place.mkdir(parents=True, exist_ok=True)
        (place / row["path"]).write_bytes(row["image"])
    (place / "cut.png").write_bytes(row["image"][:-40])
    (program.folder / "digits.json").write_text(json.dumps(REQUEST))
    done = program("run", "digits.json", "--follow", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return entries[0]["run_id"], [entry["event"] for entry in entries]


def test_a_network_is_trained_and_registered_from_a_folder_of_pictures(run):
    assert run[1][-1]["type"] == "run.succeeded", run[1][-1]
    (registered,) = [event for event in run[1] if event["type"] == "stage.registered"]
    assert (registered["model"], registered["aliases"]) == ("digits", ["challenger", "champion"])


def test_the_picture_that_was_cut_short_was_put_aside(program, run):
    stages = {stage["id"]: stage for stage in program.json("status", run[0])["stages"]}
    assert stages["load"]["outputs"]["quarantined"]["rows"] == 1
    assert stages["page"]["state"] == "succeeded"
