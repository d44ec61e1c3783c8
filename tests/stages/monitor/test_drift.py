"""What has drifted is named, and what has not is left alone however many columns there are."""

from __future__ import annotations

import datetime as dt
import math
import pathlib
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn import datasets

from stages import columns, kit, registry, values
from stages.monitor import differences, drift
from stages.report import page

ROWS = 2000


def look(before: Any, now: Any, **params: Any) -> drift.Drifted:
    stage = msgspec.convert(params, drift.Drift)
    tables = (values.Table(t if isinstance(t, pa.Table) else pa.table(t)) for t in (before, now))
    return stage.run(*tables, context=kit.Context(workdir=pathlib.Path()))


def row(found: drift.Drifted, name: str = "x") -> dict[str, Any]:
    return next(each for each in found.report.data["columns"] if each["column"] == name)


def numbers(seed: int, shift: float = 0.0, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, rows)


def test_a_shifted_column_is_named_and_the_others_are_not():
    before = {"x": numbers(1), "y": numbers(2)}
    found = look(before, {"x": numbers(3, shift=1.0), "y": numbers(4)})
    assert found.report.data["drifted"] == ["x"]
    assert found.metrics.values["drifted_columns"] == 1
    assert found.metrics.values["drifted_share"] == 0.5
    assert found.metrics.values["worst_psi"] == row(found)["psi"] > 0.5
    assert "distributed otherwise" in row(found)["why"]


def test_the_test_is_the_librarys_own():
    before, now = numbers(1), numbers(3, shift=0.3)
    told = row(look({"x": before}, {"x": now}))
    known = stats.ks_2samp(before, now)
    assert told["statistic"] == pytest.approx(known.statistic)
    assert told["test"] == "ks"


def test_a_difference_that_is_only_significant_is_no_drift():
    told = row(look({"x": numbers(1, rows=90_000)}, {"x": numbers(2, 0.05, rows=90_000)}))
    assert told["p_value"] < 1e-6
    assert told["psi"] < 0.1
    assert not told["drifted"]


def test_a_large_difference_on_few_rows_is_no_drift():
    told = row(look({"x": numbers(1, rows=20)}, {"x": numbers(7, 0.3, rows=20)}))
    assert told["psi"] >= 0.1
    assert told["p_value"] >= 0.05
    assert not told["drifted"]


def test_false_alarms_stay_rare_over_many_columns():
    alarms = 0
    for seed in range(20):
        tables = [
            {f"c{n}": numbers(1000 * seed + 2 * n + side, rows=200) for n in range(30)}
            for side in (0, 1)
        ]
        alarms += look(*tables, psi=0.0).metrics.values["drifted_columns"] > 0
    assert alarms <= 4  # 5 % of 20 expected; 30 uncorrected tests would give some in nearly all


def test_categories_are_compared_by_their_shares():
    before = {"x": ["a"] * 600 + ["b"] * 400, "y": ["p", "q"] * 500}
    now = {"x": ["a"] * 300 + ["b"] * 700, "y": ["q", "p"] * 500}
    found = look(before, now)
    assert found.report.data["drifted"] == ["x"]
    told = row(found)
    assert (told["test"], told["kind"]) == ("chi2", "category")
    expected = (0.3 - 0.6) * math.log(0.3 / 0.6) + (0.7 - 0.4) * math.log(0.7 / 0.4)
    assert told["psi"] == pytest.approx(expected)


def test_a_category_that_is_new_is_drift():
    found = look({"x": ["a", "b"] * 500}, {"x": ["a", "b", "c", "c"] * 250})
    assert found.report.data["drifted"] == ["x"]


def test_many_rare_categories_are_counted_together():
    before, now = ([f"{side}-{n}" for n in range(ROWS)] for side in "ab")
    found = differences.of_categories(*(pa.chunked_array([each]) for each in (before, now)))
    assert found.labels == [differences.REST]
    assert (found.psi, found.p_value) == (0.0, 1.0)


def test_gaps_that_grow_are_drift():
    whole, torn = ([float(n) if n % step else None for n in range(ROWS)] for step in (50, 3))
    told = row(look({"x": whole}, {"x": torn}))
    assert told["drifted"]
    assert "33.4% is missing (was 2.0%)" in told["why"]


def test_a_column_that_is_gone_or_of_another_type_is_drift():
    found = look(
        {"x": numbers(1), "y": numbers(2), "z": numbers(3)},
        {"x": numbers(1), "y": ["1"] * ROWS, "new": numbers(4)},
    )
    assert row(found, "z")["why"] == "the column is gone"
    assert "it is of type string (was double)" in row(found, "y")["why"]
    assert found.report.data["added"] == ["new"]
    assert found.metrics.values["drifted_columns"] == 2


def test_times_truths_and_texts_are_compared_too():
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    long, short = (
        [" ".join(["word"] * (size + n % 7)) + f" {n}" for n in range(ROWS)] for size in (20, 5)
    )
    before = {
        "time": [start + dt.timedelta(hours=n) for n in range(ROWS)],
        "truth": [n % 2 == 0 for n in range(ROWS)],
        "text": long,
    }
    now = {
        "time": [start + dt.timedelta(hours=n + ROWS) for n in range(ROWS)],
        "truth": [n % 10 == 0 for n in range(ROWS)],
        "text": short,
    }
    found = look(before, now)
    assert sorted(found.report.data["drifted"]) == ["text", "time", "truth"]
    assert {name: row(found, name)["kind"] for name in now} == {
        "time": "time",
        "truth": "boolean",
        "text": "text",
    }


def test_what_nothing_compares_is_told():
    before = {"x": [b"a"] * ROWS, "y": [None] * ROWS}
    found = look(pa.table(before), pa.table(before))
    assert sorted(found.report.data["not_compared"]) == ["x", "y"]
    assert found.metrics.values["drifted_columns"] == 0


def test_values_that_are_not_finite_are_left_aside():
    broken = numbers(1)
    broken[:5] = [np.inf, -np.inf, np.nan, np.nan, np.inf]
    told = row(look({"x": broken}, {"x": numbers(2)}))
    assert math.isfinite(told["psi"])
    assert not told["drifted"]


def test_columns_are_chosen_and_left_out():
    before = {"x": numbers(1), "y": numbers(2), "z": numbers(3)}
    found = look(before, before, columns=["x", "y"], ignore=["y"])
    assert [each["column"] for each in found.report.data["columns"]] == ["x"]
    with pytest.raises(columns.NoSuchColumn, match="'w'"):
        look(before, before, columns=["w"])


def test_too_few_rows_are_a_fault():
    with pytest.raises(columns.EmptyTable, match="at least 20"):
        look({"x": numbers(1)}, {"x": numbers(1, rows=19)})


def test_correction_is_that_of_benjamini_and_hochberg():
    # The example of their paper, section 3.2: at 0.05 the first four of fifteen are rejected.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p_values += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert sum(p <= 0.05 for p in differences.corrected(p_values)) == 4


def test_a_report_shows_real_wine_that_has_drifted(tmp_path):
    wine = datasets.load_wine(as_frame=True).frame
    white, red = (values.Table.from_pandas(wine[wine.target == n]).arrow for n in (0, 1))
    found = look(white, red, ignore=["target"])
    assert "proline" in found.report.data["drifted"]
    stage = page.Html(title="Drift")
    ports = {port.name: None for port in registry.get("report.html").inputs}
    ports |= {"metrics": found.metrics, "quality": found.report}
    text = stage.run(**ports, context=kit.Context(workdir=tmp_path)).text
    assert "How far each column has moved" in text
    assert "proline" in text
    assert text.count("<svg") > 3
