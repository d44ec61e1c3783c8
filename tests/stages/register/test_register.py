"""Owns the claims about registering a model."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stages import kit, values
from stages.evaluate import compare
from stages.register import champions, model
from tests.stages import fitted


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


class Attempt:
    def __init__(self, uri, folder, key):
        self.notes = []
        folder.mkdir()
        self.context = kit.Context(
            workdir=folder,
            services=kit.Services(tracking_uri=uri),
            idempotency_key=key,
            lineage={"input.train": "sha256:ab"},
            note=lambda fact, details: self.notes.append((fact, dict(details))),
        )


def test_a_model_is_registered_once_and_becomes_champion_only_when_better(uri, tmp_path):
    stage = model.RegisterModel(name="wine", promote="if_better", metric="f1_macro")
    good, bad = values.Metrics({"f1_macro": 0.9}), values.Metrics({"f1_macro": 0.5})

    first = Attempt(uri, tmp_path / "1", "run/a")
    report = stage.run(fitted.wine_model(), good, first.context)
    assert report.data["aliases"] == ["challenger", "champion"]
    assert first.notes == [
        ("registered", {"model": "wine", "version": "1", "aliases": ["challenger", "champion"]})
    ]

    repeated = stage.run(fitted.wine_model(), good, Attempt(uri, tmp_path / "2", "run/a").context)
    assert (repeated.data["version"], repeated.data["repeated"]) == ("1", True)

    worse = stage.run(fitted.wine_model(0.1), bad, Attempt(uri, tmp_path / "3", "run/b").context)
    assert (worse.data["version"], worse.data["aliases"]) == ("2", ["challenger"])

    registry = champions.client(uri)
    run = registry.get_run(report.data["run_id"])
    assert run.data.tags["lineage.input.train"] == "sha256:ab"
    assert run.data.params["C"] == "1.0"
    listed = [f.path for f in registry.list_artifacts(run.info.run_id, "model")]
    assert "model/model.skops" in listed
    assert not [name for name in listed if name.endswith(".pkl")]

    held = champions.champion(uri, "wine")
    assert held.version == "1"
    test = fitted.wine_tables()[1]
    met = Attempt(uri, tmp_path / "4", "").context
    metrics = compare.Compare(name="wine", resamples=30).run(fitted.wine_model(), test, None, met)
    assert metrics.values["better_than_champion_by"] == 0.0
    assert metrics.values["win"] == 0.0


def test_without_a_tracking_uri_nothing_is_registered(tmp_path):
    with pytest.raises(kit.NotAllowed, match="tracking"):
        model.RegisterModel(name="x").run(fitted.wine_model(), None, kit.Context(workdir=tmp_path))


def test_workers_that_make_the_registry_at_once_do_not_break_each_other(tmp_path):
    code = (
        "import sys; from stages.register import champions; "
        "champions.client(sys.argv[1]).create_registered_model(sys.argv[2])"
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    workers = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, uri, f"model-{number}"])
        for number in range(2)
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
