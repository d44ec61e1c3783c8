"""Owns the claims about the evaluation stages."""

# ruff: noqa: PD011 - the values of metrics, not of a data frame

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn import linear_model, pipeline, preprocessing

from stages import kit, values
from stages.evaluate import baselines, compare, cross_validation, holdout, predictions, scores
from tests.stages import fitted


@pytest.fixture
def context(tmp_path):
    services = kit.Services(tracking_uri=f"sqlite:///{tmp_path / 'm.db'}")
    return kit.Context(workdir=tmp_path, services=services, seed=3)


def series(rows=120):
    season = np.tile([1.0, 5.0, 9.0, 5.0], rows // 4)
    x = np.arange(rows)
    noise = np.random.default_rng(0).normal(0, 0.1, rows)
    return values.Table.from_pandas(
        pd.DataFrame({"x": season, "t": x, "y": season + 0.05 * x + noise})
    )


def test_a_classification_is_scored_against_the_majority_with_intervals(context):
    train, test = fitted.wine_tables()
    stage = holdout.Holdout(resamples=50)
    metrics, found = stage.run(fitted.wine_model(), test, train, context)
    assert metrics.values["f1_macro"] > 0.9 > metrics.values["baseline_f1_macro"]
    low, high = metrics.details["intervals"]["f1_macro"]
    assert low <= metrics.values["f1_macro"] <= high
    assert np.sum(metrics.details["confusion"]["matrix"]) == test.rows()
    assert {"predicted", "baseline", "probability_0"} <= set(found.columns)


def test_a_forecast_is_scored_against_the_seasonal_naive(context):
    whole = series().pandas()
    train, test = (values.Table.from_pandas(part) for part in (whole[:80], whole[80:]))
    model = fitted.model_of(train, "y", "forecast", linear_model.LinearRegression())
    stage = holdout.Holdout(season=4, time="t", resamples=20, importances=True)
    metrics, _ = stage.run(model, test, train, context)
    assert metrics.details["baseline"]["name"] == "seasonal naive, season 4"
    assert metrics.values["mae"] < metrics.values["baseline_mae"]
    assert metrics.values["mase"] < 1
    assert metrics.details["importances"][0]["feature"] == "x"
    assert len(metrics.details["series"]["time"]) == 40


def test_the_seasonal_naive_repeats_the_season_before():
    found = predictions.Predictions("forecast", np.array([3.0, 4.0, 5.0]), None, None, None)
    _, naive = baselines.naive(found, [9.0, 1.0, 2.0], 2)
    assert naive.tolist() == [1.0, 2.0, 3.0]


def test_smape_counts_two_zeros_as_no_error():
    assert scores.smape(np.array([0.0, 1.0]), np.array([0.0, 3.0])) == pytest.approx(50.0)


def test_a_table_without_the_target_is_a_data_fault(context):
    test = fitted.wine_tables()[1]
    table = values.Table(test.arrow.drop_columns(["target"]))
    with pytest.raises(kit.DataFault, match="'target'"):
        holdout.Holdout().run(fitted.wine_model(), table, None, context)


def test_cross_validation_refits_the_pipeline_in_every_fold(context):
    table = fitted.wine_tables()[0]
    metrics, report = cross_validation.CrossValidation(folds=4).run(
        fitted.wine_model(), table, context
    )
    assert metrics.values["cv_accuracy_mean"] > 0.9
    assert len(report.data["folds"]) == 4


def test_cross_validation_keeps_nothing_in_the_folder_that_a_model_names(context, tmp_path):
    table = fitted.wine_tables()[0]
    inner = pipeline.Pipeline(
        [("scale", preprocessing.StandardScaler()), ("model", linear_model.LogisticRegression())],
        memory=str(tmp_path / "pickles"),
    )
    model = fitted.model_of(table, "target", "classification", inner)
    shutil.rmtree(tmp_path / "pickles")
    cross_validation.CrossValidation(folds=2).run(model, table, context)
    assert not (tmp_path / "pickles").exists()


def test_without_a_champion_a_good_model_beats_the_baseline_and_wins(context):
    train, test = fitted.wine_tables()
    stage = compare.Compare(name="wine", resamples=50)
    metrics = stage.run(fitted.wine_model(), test, train, context)
    assert metrics.values["win"] == 1.0
    assert metrics.details["champion"] is None
