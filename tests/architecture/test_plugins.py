"""Another distribution's stages: found through the entry point group, and named where broken."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
GOOD = '''
from stages import kit, values

@kit.stage("theirs.count")
class Count(kit.Stage, frozen=True):
    """Count rows."""

    start: int = 0
    """Added to the count."""

    def run(self, table: values.Table) -> values.Metrics:
        return values.Metrics({"rows": float(table.rows() + self.start)})
'''


@pytest.fixture
def mlpm(tmp_path):
    """Install a plugin as pip would lay it down, and give the program beside it."""

    def install(code: str):
        (tmp_path / "their_stages.py").write_text(code)
        facts = tmp_path / "their_stages-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: their-stages\nVersion: 1.0\n")
        points = "[ml_pipeline_manager.stages]\ntheirs = their_stages\n"
        (facts / "entry_points.txt").write_text(points)

        def call(*arguments: str):
            done = subprocess.run(
                [sys.executable, "-m", "agent", *arguments, "--json"],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
                capture_output=True,
                text=True,
                check=False,
            )
            return json.loads(done.stdout)

        return call

    return install


def test_the_stages_of_a_plugin_are_listed_with_their_parameters(mlpm):
    (card,) = mlpm(GOOD)("stages", "theirs.count")
    assert card["params"]["$defs"]["Count"]["properties"]["start"]["description"] == (
        "Added to the count."
    )


def test_a_plugin_that_cannot_be_loaded_costs_its_own_stages_only_and_the_doctor_names_it(mlpm):
    ask = mlpm("raise RuntimeError('half installed')\n")
    assert any(card["name"] == "prepare.split" for card in ask("stages"))
    (found,) = [f for f in ask("doctor")["findings"] if f["part"] == "stages"]
    assert found["level"] == "warn"
    assert "theirs: RuntimeError: half installed" in found["message"]
