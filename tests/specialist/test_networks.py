"""Owns the claims about training networks: told by epoch, and gone on with after any death."""

from __future__ import annotations

import nats
import psutil

from protocol import training
from tests.specialist import conftest
from tests.stages.frameworks import digits, prose

IMAGES = {
    "framework": "torch-images",
    "model": "small-cnn",
    "target": "label",
    "params": {"image_size": 16, "batch_size": 8, "epochs": 3},
}
LONG = IMAGES | {"params": {"image_size": 32, "batch_size": 8, "epochs": 40, "patience": None}}


def table():
    return digits.table(range(150), side=16)


def epochs_of(replies):
    return [int(r.metrics["epoch"]) for r in replies if "epoch" in getattr(r, "metrics", {})]


async def heard(asker, epoch):
    """Read on until an epoch is done; give the epochs that were told."""
    found = []
    while not found or found[-1] < epoch:
        found += epochs_of([await asker.next()])
    return found


async def test_a_search_over_networks_tells_each_epoch_and_ends_in_the_best(asker):
    space = {"learning_rate": [1e-30, 3e-3]}
    search = {"strategy": "grid", "space": space, "parallel": 1}
    await asker.send(asker.request("images-1", table(), **IMAGES, search=search))
    result, seen = await asker.until(training.TrainingResult)
    assert [trial.params["learning_rate"] for trial in result.trials] == space["learning_rate"]
    assert result.params["learning_rate"] == 3e-3
    assert result.metrics["validation_f1_macro"] == result.trials[1].score
    assert epochs_of(seen)[-3:] == [1, 2, 3]
    told = [s for s in seen if "epoch" in getattr(s, "metrics", {})]
    assert "trial 2 of 2: epoch 3 of 3: loss" in told[-1].message
    assert [s.fraction for s in told] == sorted(s.fraction for s in told)
    model = asker.store.get(result.model)
    frame = digits.table(range(300, 400), side=16).pandas()
    assert (model.estimator().predict(frame) == frame["label"]).mean() > 0.8


async def test_an_encoder_of_texts_is_trained_in_the_same_way(asker):
    params = {"max_length": 32, "epochs": 1}
    told = {"framework": "transformers-text", "model": "bert-tiny", "target": "label"}
    result = await asker.end(asker.request("texts-1", prose.table(0, 40), **told, params=params))
    assert isinstance(result, training.TrainingResult), result
    model = asker.store.get(result.model)
    assert model.card.framework == "transformers-text"
    assert model.estimator().predict_proba(prose.table(40, 44).pandas()).shape == (8, 2)


async def test_a_network_is_refused_early_with_the_path(asker):
    body = asker.request("images-2", table(), **(IMAGES | {"params": {"epoch": 3}}))
    failed = await asker.end(body)
    assert (failed.problem.code, failed.problem.path) == ("invalid_field", "$.params.epoch")


async def test_a_training_whose_worker_dies_again_and_again_goes_on_from_its_last_epoch(
    asker, specialist
):
    await asker.send(asker.request("images-3", table(), **LONG))
    told = []
    for epoch in (3, 10, 17):  # as often as a task may die that makes no progress
        told += await heard(asker, epoch)
        (worker,) = specialist.trial_workers()
        worker.kill()
        psutil.wait_procs([worker], timeout=10)
    told += await heard(asker, 40)
    result, _ = await asker.until(training.TrainingResult)
    assert told == sorted(set(told))
    assert result.metrics["epochs"] == 40


async def test_a_training_goes_on_from_its_last_epoch_when_the_specialist_was_killed(
    server_url, tmp_path
):
    one = conftest.Process(server_url, tmp_path / "data", "networks")
    one.start()
    client = await nats.connect(server_url)
    asker = conftest.Asker(client, tmp_path / "artifacts", "networks")
    await asker.open()
    body = asker.request("images-4", table(), **LONG)
    await asker.send(body)
    before = await heard(asker, 5)
    one.kill()
    one.start()
    await asker.send(body)
    result, seen = await asker.until(training.TrainingResult)
    conftest.end(one.process)
    await client.close()
    after = epochs_of(seen)
    assert after[-1] == result.metrics["epochs"] == 40
    assert after[0] > max(before)  # what was told had been kept before
    assert not list((tmp_path / "data" / "trainings" / "images-4").rglob("*.safetensors"))
