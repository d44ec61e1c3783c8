"""The templates for networks beside a running agent: from files to a registered model."""

from __future__ import annotations

import csv
import json

import pytest

from tests.stages.frameworks import digits, prose

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("agent")]
IMAGES = {
    "uri": "digits",
    "name": "digits",
    "image_size": 32,
    "epochs": 2,
    "batch_size": 16,
    "learning_rates": [0.002],
    "on_bad": "quarantine",
}
TEXTS = {
    "uri": "texts.csv",
    "target": "label",
    "network": "bert-tiny",
    "epochs": 6,
    "batch_size": 8,
    "max_length": 32,
    "learning_rates": [0.001],
}


def followed(program, template, params):
    """Run a template to its end; give the run's id and its events."""
    (program.folder / "asked.json").write_text(json.dumps({"template": template, "params": params}))
    done = program("run", "asked.json", "--follow", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    told = [entry["event"] for entry in entries]
    assert told[-1]["type"] == "run.succeeded", told[-1]
    return entries[0]["run_id"], told


def test_a_network_is_registered_from_a_folder_with_a_picture_that_is_cut_short(program):
    for row in digits.table(range(200)).arrow.to_pylist():
        place = program.folder / "digits" / row["label"]
        place.mkdir(parents=True, exist_ok=True)
        (place / row["path"]).write_bytes(row["image"])
    (place / "cut.png").write_bytes(row["image"][:-40])
    run_id, told = followed(program, "image-classification", IMAGES)
    (registered,) = [event for event in told if event["type"] == "stage.registered"]
    assert (registered["model"], registered["aliases"]) == ("digits", ["challenger", "champion"])
    stages = {stage["id"]: stage for stage in program.json("status", run_id)["stages"]}
    assert stages["load"]["outputs"]["quarantined"]["rows"] == 1
    assert stages["page"]["state"] == "succeeded"


def test_an_encoder_is_registered_from_a_file_of_texts(program):
    with (program.folder / "texts.csv").open("w", newline="") as file:
        rows = prose.table(0, 80).arrow.to_pylist()
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    _, told = followed(program, "text-classification", TEXTS)
    (registered,) = [event for event in told if event["type"] == "stage.registered"]
    assert (registered["model"], registered["aliases"]) == ("texts", ["challenger", "champion"])
