"""A model is registered once, by the run's owner, whoever else wakes up and goes on."""

from __future__ import annotations

import concurrent.futures
import socket
import threading

import pytest

from stages import kit, values
from stages.register import champions, claims, model
from tests.stages import fitted

GOOD = values.Metrics({"f1_macro": 0.9})


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


class Attempt:
    """One attempt by an owner; it can be held up where it begins to write its files."""

    def __init__(self, uri, folder, epoch, key="run/keep"):
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._folder = folder / f"{key.replace('/', '-')}-{epoch}"
        self.context = kit.Context(
            workdir=self._wait,
            services=kit.Services(tracking_uri=uri),
            idempotency_key=key,
            epoch=epoch,
        )

    def _wait(self):
        self.reached.set()
        assert self.go_on.wait(60)
        self._folder.mkdir()
        return self._folder

    def run(self, promote="always"):
        stage = model.RegisterModel(name="wine", promote=promote)
        return stage.run(fitted.wine_model(), GOOD, self.context).data

    def at_once(self):
        self.go_on.set()
        return self.run()


def versions(uri):
    return champions.client(uri).search_model_versions("name = 'wine'")


def holder(uri, alias=champions.CHAMPION):
    return int(champions.aliased(champions.client(uri), "wine", alias).version)


def test_an_owner_that_wakes_after_the_next_one_has_registered_registers_nothing(uri, tmp_path):
    late, owner = Attempt(uri, tmp_path, 1), Attempt(uri, tmp_path, 2)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        running = threads.submit(late.run)
        assert late.reached.wait(60)
        assert owner.at_once()["version"] == "1"
        late.go_on.set()
        with pytest.raises(claims.Superseded) as refused:
            running.result(60)
    assert (refused.value.epoch, refused.value.newer) == (1, 2)
    assert [one.tags[claims.KEY_TAG] for one in versions(uri)] == ["run/keep"]


def test_an_owner_that_wakes_while_the_next_one_is_at_it_leaves_it_to_that(uri, tmp_path):
    late, owner = Attempt(uri, tmp_path, 1), Attempt(uri, tmp_path, 2)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        running = [threads.submit(one.run) for one in (late, owner)]
        assert late.reached.wait(60)
        assert owner.reached.wait(60)
        late.go_on.set()
        with pytest.raises(claims.Superseded):
            running[0].result(60)
        owner.go_on.set()
        assert running[1].result(60)["version"] == "1"
    assert len(versions(uri)) == 1


def test_what_a_lost_owner_registered_is_the_next_one_s(uri, tmp_path):
    assert Attempt(uri, tmp_path, 1).at_once()["repeated"] is False
    again = Attempt(uri, tmp_path, 2).at_once()
    assert (again["version"], again["repeated"], again["aliases"]) == (
        "1",
        True,
        ["challenger", "champion"],
    )
    assert len(versions(uri)) == 1


def test_a_late_repetition_does_not_promote_again_what_has_been_replaced(uri, tmp_path):
    Attempt(uri, tmp_path, 1).at_once()
    assert Attempt(uri, tmp_path, 1, key="run2/keep").at_once()["version"] == "2"
    Attempt(uri, tmp_path, 2).at_once()
    assert (holder(uri), holder(uri, champions.CHALLENGER)) == (2, 2)


def test_of_two_versions_with_one_key_the_lower_stays(uri, tmp_path):
    registry = champions.client(uri)
    experiment = registry.create_experiment("one", (tmp_path / "files").as_uri())
    registry.create_registered_model("wine")
    attempts = [
        claims.Claim(registry, experiment, Attempt(uri, tmp_path, epoch).context)
        for epoch in (1, 2)
    ]
    made = []
    for one in attempts:  # both have looked, and neither saw the other
        one.make("wine", {})
        tags = {claims.KEY_TAG: "run/keep"}
        made.append(registry.create_model_version("wine", "x", one.run_id, tags=tags))
    kept = [one.settle("wine", version) for one, version in zip(attempts, made, strict=True)]
    assert [int(one.version) for one in kept] == [1, 1]
    assert [int(one.version) for one in versions(uri)] == [1]


def test_a_registry_that_cannot_be_reached_is_worth_another_try(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(kit.Transient, match="cannot be reached"):
        Attempt(f"http://127.0.0.1:{port}", tmp_path, 1).at_once()
