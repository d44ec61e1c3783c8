from __future__ import annotations

import math

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import columns, kit, values
from stages.features import apply, auto, dates, lags, steps

ROWS = 240


def make(cls, **params):
    return msgspec.convert(params, cls)


def mixed(rows=ROWS):
    generator = np.random.default_rng(1)
    label = generator.integers(0, 2, rows)
    return values.Table(
        pa.table(
            {
                "id": [f"k{i}" for i in range(rows)],
                "a": [None if i % 7 == 0 else float(i % 13) for i in range(rows)],
                "tail": generator.exponential(size=rows) ** 4,
                "colour": [("red", "green", "blue")[i % 3] for i in range(rows)],
                "city": [f"c{v}" for v in generator.integers(0, 40, rows)],
                "note": [f"the cat number {i % 50} sat down" for i in range(rows)],
                "constant": [1] * rows,
                "empty": pa.nulls(rows, pa.float64()),
                "leak": ["yes" if v else "no" for v in label],
                "copy": [float(v) * 3 + 1 for v in label],
                "y": label,
            }
        )
    )


def test_auto_chooses_by_what_is_in_a_column_and_says_why():
    found = make(auto.Auto, target="y").run(mixed())
    chosen = {row["column"]: row["choice"] for row in found.report.data["columns"]}
    assert chosen == {
        "id": "left out",
        "a": "standard",
        "tail": "quantile",
        "colour": "onehot",
        "city": "target",
        "note": "text_tfidf",
        "constant": "left out",
        "empty": "left out",
        "leak": "left out",
        "copy": "left out",
    }
    assert all(row["reason"] for row in found.report.data["columns"])
    assert all(step.reason for step in found.features.steps)
    forecast = make(auto.Auto, target="y", task="forecast").run(mixed())
    assert "target" not in {step.encoder for step in forecast.features.steps}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_test_rows_change_nothing_about_the_training_features(seed):
    table = mixed()
    train, test = (values.Table(table.arrow.slice(*part)) for part in ((0, 180), (180, 60)))
    plan = make(auto.Auto, target="y").run(train).features
    frame = test.pandas()
    generator = np.random.default_rng(seed)
    frame["a"] = generator.normal(size=len(frame)) * 1e6
    frame["colour"] = "violet"
    other = values.Table.from_pandas(frame)
    stage = make(apply.Apply, target="y")
    first, second = stage.run(train, plan, test), stage.run(train, plan, other)
    assert first.train.arrow.equals(second.train.arrow)
    rows = values.Table(test.arrow.slice(0, 1))
    alone = stage.run(train, plan, rows).test.pandas()
    pd.testing.assert_frame_equal(alone, first.test.pandas().head(1), check_dtype=False)


SERIES = st.lists(st.floats(-1e3, 1e3), min_size=14, max_size=40)


@settings(max_examples=60, deadline=None)
@given(SERIES, st.integers(1, 4), st.booleans(), st.data())
def test_lags_and_windows_never_see_the_future(series, horizon, grouped, data):
    cut = data.draw(st.integers(0, len(series) - 1))
    changed = [v if place < cut else v + 1 + place for place, v in enumerate(series)]
    groups = [place % 2 for place in range(len(series))]
    stage = make(
        lags.Lags,
        columns=["y"],
        lags=[horizon, horizon + 2],
        windows=[2, 3],
        horizon=horizon,
        incomplete="keep",
        group="g" if grouped else None,
    )
    before, after = (
        stage.run(values.Table(pa.table({"y": v, "g": groups}))).pandas() for v in (series, changed)
    )
    reach = horizon * (2 if grouped else 1)
    known = min(len(series), cut + reach - (1 if grouped else 0))
    added = [name for name in before.columns if name not in ("y", "g")]
    pd.testing.assert_frame_equal(before[added].head(known), after[added].head(known))


def test_a_lag_is_the_value_so_many_rows_before():
    table = values.Table(pa.table({"y": [1.0, 2.0, 4.0, 8.0, 16.0]}))
    found = make(lags.Lags, columns=["y"], lags=[2], windows=[2], horizon=2).run(table).pandas()
    assert found["y"].tolist() == [8.0, 16.0]
    assert found["y_lag_2"].tolist() == [2.0, 4.0]
    assert found["y_mean_2"].tolist() == [1.5, 3.0]


def test_calendar_columns_are_made_row_by_row():
    table = values.Table(pa.table({"d": ["2024-02-29", None, "2023-12-31"]}))
    parts = ["month", "weekday", "is_weekend"]
    found = make(dates.Dates, column="d", parts=parts, cyclical=["month"]).run(table)
    assert found.arrow["d_month"].to_pylist() == [2, None, 12]
    assert found.arrow["d_weekday"].to_pylist() == [3, None, 6]
    assert found.arrow["d_is_weekend"].to_pylist() == [0, None, 1]
    assert math.isclose(found.arrow["d_month_sin"][0].as_py(), 0.5)


def test_feature_stages_add_to_a_plan_and_fit_nothing():
    table = mixed()
    plan = make(steps.Impute, columns=["a", "tail"], flag=True).run(table)
    plan = make(steps.Scale, columns=["a"], method="robust").run(table, plan)
    plan = make(steps.Encode, columns=["colour"]).run(table, plan)
    plan = make(steps.Hash, columns=["city"], width=8).run(table, plan)
    plan = make(steps.Text, columns=["note"]).run(table, plan)
    plan = make(steps.Select, target="y", count=5).run(table, plan)
    assert [step.encoder for step in plan.steps] == [
        "missing",
        "impute_median",
        "robust",
        "onehot",
        "hashing",
        "text_tfidf",
        "variance",
        "select_k_best",
    ]
    found = make(apply.Apply, target="y").run(table, plan)
    assert found.train.arrow.num_columns == 6
    plan = make(steps.Pca, columns=["a", "tail"], components=1).run(table)
    assert make(apply.Apply, keep=["id"]).run(table, plan).train.columns == ["pca0", "id"]


INFINITE = values.Table(pa.table({"a": [1.0, float("inf")], "s": ["1", "x"], "y": [0, 1]}))
A_PLAN = values.FeaturePlan([values.FeatureStep("standard", ["a"])])


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (lambda: make(auto.Auto, target="no").run(mixed()), columns.NoSuchColumn),
        (
            lambda: make(auto.Auto, target="y").run(values.Table(mixed().arrow[:0])),
            columns.EmptyTable,
        ),
        (lambda: make(auto.Auto, target="y").run(INFINITE), columns.NotFinite),
        (
            lambda: make(auto.Auto, target="y").run(values.Table(pa.table({"y": [0, 1]}))),
            auto.NothingUsable,
        ),
        (lambda: make(steps.Scale, columns=["s"]).run(INFINITE), columns.NotNumeric),
        (lambda: make(steps.Scale, columns=["a"]).run(INFINITE), columns.NotFinite),
        (lambda: make(steps.Text, columns=["a"]).run(INFINITE), steps.NotText),
        (lambda: make(steps.Pca, columns=["y"], components=2).run(INFINITE), steps.BadComponents),
        (lambda: make(steps.Select, target="no").run(mixed()), columns.NoSuchColumn),
        (lambda: make(apply.Apply).run(INFINITE, A_PLAN), apply.Unfittable),
        (lambda: make(apply.Apply, target="a").run(mixed(), A_PLAN), apply.TargetAmongFeatures),
        (lambda: make(lags.Lags, columns=["s"]).run(INFINITE), columns.NotNumeric),
        (lambda: make(lags.Lags, columns=["y"], lags=[1], horizon=2).run(mixed()), lags.SeesAhead),
        (lambda: make(lags.Lags, columns=["y"], lags=[500]).run(mixed()), lags.TooFewRows),
        (lambda: make(dates.Dates, column="s").run(INFINITE), columns.NotTime),
        (lambda: make(dates.Dates, column="a").run(INFINITE), columns.NotTime),
    ],
)
def test_what_cannot_be_done_is_a_named_fault_with_a_hint(run, fault):
    with pytest.raises(fault) as raised:
        run()
    assert isinstance(raised.value, kit.DataFault)
    assert raised.value.hint
