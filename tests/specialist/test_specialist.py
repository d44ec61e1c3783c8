"""Owns the claims about the specialist, tried on its own process over a real bus and Ray."""

from __future__ import annotations

import asyncio
import math

import msgspec
import nats
import numpy as np
import pandas as pd
import psutil
import pytest
from sklearn import datasets

from protocol import training
from stages import models, values
from tests.specialist import conftest


def wine():
    return values.Table.from_pandas(datasets.load_wine(as_frame=True).frame)


def noise(rows=4000, columns=20):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(generator.normal(size=(rows, columns))).add_prefix("x")
    return values.Table.from_pandas(frame.assign(target=generator.integers(0, 2, rows)))


SLOW = {
    "model": "GradientBoostingClassifier",
    "params": {"n_estimators": 150, "n_iter_no_change": None},
    "search": {
        "strategy": "random",
        "space": {"max_depth": {"low": 2, "high": 4, "integer": True}},
        "max_trials": 8,
        "parallel": 2,
    },
    "validation": {"folds": 2},
}


async def test_a_grid_search_ends_in_a_model_that_predicts(asker):
    search = {"strategy": "grid", "space": {"C": [0.01, 1.0], "penalty": ["l2"]}}
    await asker.send(asker.request("grid-1", wine(), search=search))
    accepted = await asker.next(2.0)
    assert isinstance(accepted, training.TrainingAccepted)
    result, seen = await asker.until(training.TrainingResult)
    assert [t.params["C"] for t in result.trials] == [0.01, 1.0]
    assert {s.trial.number for s in seen if s.trial} == {0, 1}
    best = max(result.trials, key=lambda t: t.score)
    assert result.params["C"] == best.params["C"]
    assert math.isclose(result.metrics["cv_f1_macro_mean"], best.score)
    model = asker.store.get(result.model)
    frame = wine().pandas()
    assert (model.estimator().predict(frame) == frame["target"]).mean() > 0.9
    assert model.card.target == "target"

    await asker.send(asker.request("grid-1", wine(), search=search, epoch=3))
    assert (await asker.next()).attached
    again = await asker.next()
    assert (again.model, again.epoch) == (result.model, 3)


async def test_a_search_is_the_same_each_time_even_in_parallel(asker):
    search = {
        "strategy": "bayesian",
        "space": {"max_depth": {"low": 1, "high": 6, "integer": True}, "criterion": ["gini"]},
        "max_trials": 6,
        "parallel": 2,
    }
    told = {"model": "RandomForestClassifier", "params": {"n_estimators": 10}, "seed": 5}
    asked = [asker.request(f"same-{n}", wine(), search=search, **told) for n in (1, 2)]
    first, second = [await asker.end(body) for body in asked]
    assert [(t.params, t.score) for t in first.trials] == [
        (t.params, t.score) for t in second.trials
    ]
    assert first.model.digest == second.model.digest


async def test_a_regression_reports_errors_as_positive_numbers(asker):
    frame = datasets.load_diabetes(as_frame=True).frame
    table = values.Table.from_pandas(frame)
    result = await asker.end(asker.request("reg-1", table, model="Ridge"))
    assert 40 < result.metrics["cv_rmse_mean"] < 80
    assert result.trials[0].score == -result.metrics["cv_rmse_mean"]


async def test_features_are_fitted_inside_each_fold(asker):
    """Chosen on all rows, the best of 2000 noise columns would seem to predict the target."""
    table = noise(60, 2000)
    columns = [name for name in table.columns if name != "target"]
    step = values.FeatureStep("select_k_best", columns, {"k": 10})
    plan = values.FeaturePlan([step])
    ref = msgspec.to_builtins(asker.store.put(plan))
    body = asker.request("leak-1", table, features=ref, metric="accuracy")
    result = await asker.end(body)
    assert isinstance(result, training.TrainingResult), result
    assert result.metrics["cv_accuracy_mean"] < 0.75


@pytest.mark.parametrize(
    ("changes", "code", "path", "says"),
    [
        ({"target": "tarpet"}, "invalid_field", "$.target", "'tarpet'"),
        ({"model": "LogisticRegresion"}, "invalid_field", "$.model", "no estimator"),
        ({"model": "os.system"}, "invalid_field", "$.model", "no estimator"),
        ({"params": {"c": 1}}, "invalid_field", "$.params.c", "no parameter"),
        ({"metric": "f1_makro"}, "invalid_field", "$.metric", "no classification metric"),
        ({"framework": "tf"}, "invalid_field", "$.framework", "no framework"),
        ({"task": "regression"}, "invalid_field", "$.task", "is a classifier"),
        ({"search": {"strategy": "grid"}}, "invalid_field", "$.search.strategy", "grid"),
        ({"params": {"C": "much"}}, "data_fault", None, "InvalidParameterError"),
        ({"serach": {}}, "unknown_field", "$", "serach"),
        ({"deadline_s": 0.0}, "deadline_exceeded", None, "deadline"),
    ],
)
async def test_a_request_that_cannot_be_done_is_answered_with_why(asker, changes, code, path, says):
    body = asker.request(f"bad-{abs(hash(str(changes)))}", wine(), **changes)
    failed = await asker.end(body)
    assert failed.training_id == body["training_id"]
    assert (failed.problem.code, failed.problem.path) == (code, path)
    assert says in failed.problem.message


@pytest.mark.parametrize(
    ("number", "column", "values_", "says"),
    [
        (1, "target", [1] * 40, "one class only"),
        (2, "target", [0, 1] * 19 + [None, 1], "missing"),
        (3, "x0", [math.inf] * 40, "infinite"),
    ],
)
async def test_data_that_cannot_be_learned_from_is_a_data_fault(
    asker, number, column, values_, says
):
    frame = noise(40, 3).pandas()
    frame[column] = values_
    failed = await asker.end(asker.request(f"data-{number}", values.Table.from_pandas(frame)))
    assert failed.problem.code == "data_fault"
    assert says in failed.problem.message
    assert failed.problem.hint


async def test_nonsense_on_the_bus_is_answered_and_does_no_harm(asker):
    await asker.send(b"{nonsense")
    failed = await asker.next()
    assert failed.problem.code == "invalid_json"
    assert isinstance(await asker.end(asker.request("ok-1", wine())), training.TrainingResult)


async def test_an_id_used_for_two_requests_is_a_conflict(asker):
    await asker.end(asker.request("twice", wine()))
    failed = await asker.end(asker.request("twice", wine(), seed=1))
    assert failed.problem.code == "conflict"


async def test_a_cancelled_training_is_proved_to_have_stopped(asker, specialist):
    await asker.send(asker.request("stop-1", noise(), **SLOW))
    while not (workers := specialist.trial_workers()):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.05)
    await asker.send({"training_id": "stop-1"}, "training.cancel")
    found = None
    while found is None or "state" not in found:
        found = await asker.next(kind=dict)
    assert found == {"training_id": "stop-1", "state": "cancelled", "stopped": True}
    _, alive = psutil.wait_procs(workers, timeout=3)
    assert not alive


async def test_a_second_asker_attaches_to_the_running_job(asker, server_url, tmp_path):
    quick = SLOW | {"params": {"n_estimators": 20}, "search": {}}
    body = asker.request("both", noise(1500), **quick)
    await asker.send(body)
    client = await nats.connect(server_url)
    other = conftest.Asker(client, tmp_path / "artifacts")
    await other.open()
    await other.send(body | {"epoch": 2})
    assert (await other.next()).attached
    theirs, _ = await other.until(training.TrainingResult)
    ours, _ = await asker.until(training.TrainingResult)
    assert (ours.model, ours.epoch, theirs.epoch) == (theirs.model, 0, 2)
    await client.close()


async def test_a_killed_search_goes_on_where_it_was(server_url, tmp_path):
    one = conftest.Process(server_url, tmp_path / "data", "killed")
    one.start()
    client = await nats.connect(server_url)
    asker = conftest.Asker(client, tmp_path / "artifacts", "killed")
    await asker.open()
    body = asker.request("resume", noise(1500), **(SLOW | {"params": {"n_estimators": 15}}))
    await asker.send(body)
    done = []
    while len(done) < 3:
        reply = await asker.next()
        done += [reply.trial.number] if getattr(reply, "trial", None) else []
    one.kill()
    one.start()
    await asker.send(body)
    result, seen = await asker.until(training.TrainingResult)
    after = {s.trial.number for s in seen if getattr(s, "trial", None)}
    conftest.end(one.process)
    await client.close()
    assert [t.number for t in result.trials] == list(range(8))
    assert not after & set(done)
    assert isinstance(asker.store.get(result.model), models.Model)


async def test_a_specialist_that_stops_says_that_asking_again_helps(server_url, tmp_path):
    one = conftest.Process(server_url, tmp_path / "data", "leaving")
    one.start()
    client = await nats.connect(server_url)
    asker = conftest.Asker(client, tmp_path / "artifacts", "leaving")
    await asker.open()
    await asker.send(asker.request("left", noise(1500), **SLOW))
    await asker.until(training.TrainingProgress)
    one.process.terminate()
    while not isinstance(reply := await asker.next(), training.TrainingFailed):
        pass
    conftest.end(one.process)
    await client.close()
    assert (reply.problem.code, reply.problem.retryable) == ("preempted", True)
