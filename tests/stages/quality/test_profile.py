"""What a profile tells of a table, and that it tells nothing which JSON can't hold."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import pathlib
from typing import Any

import hypothesis
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import strategies
from sklearn import datasets

from agent import catalog, templates
from agent.demo import series
from agent.templates import profiles
from stages import columns, kit, registry, values
from stages.ingest import table as ingest
from stages.prepare import rows
from stages.quality import facts, profile
from stages.report import page


def context_of(folder: pathlib.Path = pathlib.Path(), **given: Any) -> kit.Context:
    return kit.Context(workdir=folder, **given)


def look(data: Any, seed: int = 0, **params: Any) -> dict[str, Any]:
    """Profile a table, and read the report as strictly as JSON is meant."""
    table = data if isinstance(data, pa.Table) else pa.table(data)
    stage = msgspec.convert(params, profile.Profile)
    report = stage.run(values.Table(table), context_of(seed=seed))
    return strict(report.data)


def strict(data: Any) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(json.dumps(data), parse_constant=refuse)


def column(data: Any, name: str = "x", **params: Any) -> dict[str, Any]:
    told = look({name: data} if not isinstance(data, pa.Table) else data, **params)
    return next(each for each in told["columns"] if each["name"] == name)


def warned(told: dict[str, Any], name: str = "x") -> list[str]:
    return [each["message"] for each in told["warnings"] if each["column"] == name]


@pytest.fixture(scope="module")
def wine() -> pd.DataFrame:
    return datasets.load_wine(as_frame=True).frame


def test_the_numbers_of_real_data_are_those_that_pandas_computes(wine):
    told = look(pa.Table.from_pandas(wine, preserve_index=False))
    assert told["rows"] == len(wine)
    assert [each["name"] for each in told["columns"]] == list(wine)
    for each in told["columns"]:
        real = wine[each["name"]]
        for key in ("min", "max", "mean", "std", "skew"):
            # pandas corrects the skew for small samples
            exact = getattr(real, key)() if key != "skew" else _skew(real)
            assert each[key] == pytest.approx(exact, rel=1e-9, abs=1e-12)
        assert each["distinct"] == real.nunique()
        assert each["quantiles"] == {
            f"{q:g}": pytest.approx(real.quantile(q)) for q in facts.QUANTILES
        }
        assert sum(each["histogram"]["counts"]) == len(real)
        assert each["histogram"]["edges"][0] == pytest.approx(real.min())


def _skew(real: pd.Series) -> float:
    off = real - real.mean()
    return float((off**3).mean() / (off**2).mean() ** 1.5)


def test_a_column_is_told_by_its_kind():
    texts = [f"the finding number {n} is about this" for n in range(30)]
    kinds = {
        "number": range(30),
        "boolean": [True, False, None] * 10,
        "time": [dt.date(2026, 1, 1)] * 30,
        "category": ["red", "green", None] * 10,
        "text": texts,
        "other": [[1]] * 30,
    }
    told = look({kind: pa.array(data) for kind, data in kinds.items()})
    assert [each["kind"] for each in told["columns"]] == list(kinds)
    assert told["kinds"] == dict.fromkeys(kinds, 1)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ([f"one two {n}" for n in range(30)], "text"),
        (["one two three"] * 30, "category"),
        ([f"word{n}" for n in range(30)], "category"),
        ([None] * 30, "category"),
    ],
)
def test_text_is_prose_if_it_has_words_and_is_not_always_the_same(texts, kind):
    assert column(pa.array(texts, pa.string()))["kind"] == kind


def test_gaps_nan_and_infinity_are_counted_apart_and_kept_out_of_the_numbers():
    told = look({"x": [1.0, None, math.nan, math.inf, -math.inf, 3.0]})
    (each,) = told["columns"]
    assert (each["nulls"], each["nan"], each["infinite"]) == (1, 1, 2)
    assert (each["min"], each["max"], each["mean"]) == (1.0, 3.0, 2.0)
    assert "1 values are NaN" in warned(told)
    assert "2 values are infinite" in warned(told)


@pytest.mark.parametrize(
    "data",
    [
        [math.nan] * 3,
        [math.inf, -math.inf],
        [1e308, -1e308, 1e308],
        [5e-324, 0.0],
        [1e308] * 3,
        [1.0],
        [1.7976931345e308, 0.0],
        [1.0, 1.0 + 2**-52],
        [2**63 - 1, -(2**63)],
        pa.array([2**64 - 1, 0], pa.uint64()),
        pa.array(np.array([1, np.nan, np.inf], np.float16)),
        [decimal.Decimal("1e30"), decimal.Decimal("0.5"), None],
        pa.array([0, 2**62], pa.timestamp("s")),
        pa.array([1, None], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([1, 2], pa.duration("s")),
        pa.nulls(2),
        [b"\xff", None],
        [{"a": math.nan}, None],
        [[math.inf], [1.0]],
        ["", None, "\0", "𝄞" * 1000],
        pa.array(["a", None, "a"]).dictionary_encode(),
        pa.array([1, None, 1]).dictionary_encode(),
        pa.array(["a", None], pa.string_view()),
        pa.array([], pa.float64()),
        pa.chunked_array([[1.0], [], [2.0]]),
    ],
    ids=str,
)
def test_any_column_makes_a_report_that_json_can_hold(data, tmp_path):
    told = look({"x": data, "y": data})
    report = values.Report(told)
    report.save(tmp_path / "report")
    assert values.Report.load(tmp_path / "report").data == told


@hypothesis.given(
    strategies.lists(strategies.none() | strategies.floats(width=64), max_size=40),
)
@hypothesis.settings(deadline=None, max_examples=200)
def test_no_numbers_whatever_break_the_report(data):
    told = column(pa.array(data, pa.float64()))
    finite = [value for value in data if value is not None and math.isfinite(value)]
    assert told["nulls"] == data.count(None)
    if finite:
        assert told["min"] == pytest.approx(min(finite), rel=1e-9)
        assert told.get("std") is None or told["std"] >= 0


def test_whole_numbers_are_told_exactly_as_far_as_json_goes():
    assert column([2**53, -7])["max"] == 2**53
    assert isinstance(column([1, 2])["max"], int)
    assert column([2**60, 0])["max"] == pytest.approx(2.0**60)


def test_the_most_frequent_values_are_told_with_their_share():
    told = column(["b", "a", "b", "c", None])
    first, *others = told["top"]
    assert first == {"value": "b", "count": 2, "share": 0.4}
    assert [each["value"] for each in others] == ["a", "c"]
    assert (told["nulls"], told["null_fraction"], told["distinct"]) == (1, 0.2, 3)


def test_a_long_text_is_told_in_short():
    told = column(["x" * 10_000, "y"])
    assert (told["max_length"], told["min_length"]) == (10_000, 1)
    assert len(told["top"][0]["value"]) < 100


def test_times_are_told_as_iso_8601():
    told = column([dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), None])
    assert told["min"].startswith("2026-01-02T03:00:00")
    assert told["max"].endswith("Z")
    assert column([dt.date(2026, 1, 2)])["min"] == "2026-01-02"


def test_rows_that_repeat_are_as_many_as_deduplication_drops():
    nested = pa.array([[1], [1], [2], [1], [1], None, None])
    data = pa.table(
        {
            "a": [1, 1, 2, 1, None, None, None],
            "b": ["x", "x", "y", "x", None, None, None],
            "f": [math.nan, math.nan, 1.0, None, 1.0, 1.0, 1.0],
        }
    )
    dropped = rows.Deduplicate().run(values.Table(data)).report.data["dropped"]
    told = look(data)
    assert told["duplicates"] == dropped == 4
    assert "4 rows (57.1%) repeat an earlier one" in warned(told, "")
    assert look(data.append_column("n", nested))["duplicates"] == 3


def test_columns_that_say_the_same_are_paired_the_closest_first(wine):
    frame = wine.assign(twice=wine["alcohol"] * -2, near=wine["ash"] + np.sin(np.arange(178)) / 20)
    told = look(pa.Table.from_pandas(frame, preserve_index=False))
    first, second = told["correlated"]
    assert (first["a"], first["b"], first["correlation"]) == ("alcohol", "twice", -1.0)
    assert (second["a"], second["b"]) == ("ash", "near")
    assert second["correlation"] == pytest.approx(frame["ash"].corr(frame["near"]), abs=1e-6)
    assert any("'twice'" in text for text in warned(told, "alcohol"))


def test_less_than_the_wanted_correlation_is_not_listed(wine):
    table = pa.Table.from_pandas(wine, preserve_index=False)
    assert look(table)["correlated"] == []
    (pair,) = look(table, correlated=0.86)["correlated"]
    assert (pair["a"], pair["b"]) == ("total_phenols", "flavanoids")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([7] * 30, "it has a single value"),
        ([None] * 30, "it has no value at all"),
        ([1, 2, *[None] * 28], "93% of it is missing"),
        ([*["a"] * 99, "b"], "99% of it is 'a'"),
        ([f"user-{n}" for n in range(30)], "identifier"),
        (list(range(30, 60)), "identifier"),
        ([2.0**n for n in range(100)], "tail is long"),
    ],
    ids=["constant", "empty", "gaps", "mostly", "names", "numbers", "tail"],
)
def test_what_is_strange_is_said_in_words(data, said):
    (message,) = warned(look({"x": data}))
    assert said in message


def test_ordinary_columns_are_not_warned_of(wine):
    told = look(pa.Table.from_pandas(wine.drop_duplicates(), preserve_index=False))
    assert told["warnings"] == []
    assert told["limits"] == []


def test_constants_empty_columns_and_identifiers_are_listed_by_name():
    data = {"c": [1] * 30, "e": pa.nulls(30, pa.string()), "i": range(30), "z": [1, 2, 3] * 10}
    told = look({name: pa.array(each) for name, each in data.items()})
    assert (told["constant"], told["empty"], told["identifiers"]) == (["c"], ["e"], ["i"])


def test_a_table_without_rows_or_columns_is_told_as_such():
    told = look({"x": pa.array([], pa.int64())})
    assert told["rows"] == 0
    assert warned(told, "") == ["the table has no rows"]
    assert look({})["columns"] == []


def test_two_columns_of_one_name_are_both_told_and_warned_of():
    told = look(pa.table([[1, 2], ["a", "b"]], names=["x", "x"]))
    assert [each["kind"] for each in told["columns"]] == ["number", "category"]
    assert warned(told, "") == ["several columns have the name 'x'"]


def test_columns_that_are_named_are_the_only_ones_told():
    assert [each["name"] for each in look({"a": [1], "b": [2]}, columns=["b"])["columns"]] == ["b"]
    with pytest.raises(columns.NoSuchColumn) as raised:
        look({"alcohol": [1]}, columns=["alcohl"])
    assert raised.value.path == "$.columns"
    assert "alcohol" in raised.value.hint


def test_a_wide_table_is_told_in_brief_beyond_the_limit():
    width = profile.MOST_COLUMNS + 10
    told = look({f"c{n}": [n, n + 1, None] for n in range(width)})
    first, last = told["columns"][0], told["columns"][-1]
    assert len(told["columns"]) == width
    assert "histogram" in first
    assert set(last) == {"name", "type", "kind", "nulls", "null_fraction", "distinct"}
    assert any(f"first {profile.MOST_COLUMNS}" in text for text in told["limits"])
    assert len(told["warnings"]) <= profile.MOST_LISTED


def test_a_long_table_is_sampled_for_correlations_alone_and_says_so():
    size = profile.CORRELATION_ROWS * 2
    drawn = np.random.default_rng(0).normal(size=size)
    drawn[17] = 1e6
    told = look({"x": drawn, "y": drawn * 3})
    assert told["columns"][0]["max"] == 1e6
    assert told["columns"][0]["distinct"] == len(np.unique(drawn))
    assert told["correlated"][0]["correlation"] == 1.0
    assert any(str(profile.CORRELATION_ROWS) in text for text in told["limits"])


def test_repeats_are_not_looked_for_in_too_many_cells():
    told = look({"x": pa.nulls(profile.MOST_CELLS + 1)})
    assert told["duplicates"] is None
    assert any("repeats were not looked for" in text for text in told["limits"])


def test_equal_data_and_seed_give_an_equal_report():
    rng = np.random.default_rng(1)
    data = {
        "x": rng.normal(size=profile.CORRELATION_ROWS + 1),
        "y": rng.normal(size=profile.CORRELATION_ROWS + 1),
        "t": [f"a b {n % 99}" for n in range(profile.CORRELATION_ROWS + 1)],
    }
    parts = pa.concat_tables([pa.table(data).slice(0, 7), pa.table(data).slice(7)])
    first = msgspec.json.encode(look(data, seed=5, correlated=1e-9), order="sorted")
    assert first == msgspec.json.encode(look(data, seed=5, correlated=1e-9), order="sorted")
    again = look(parts, seed=5, correlated=1e-9)
    assert again["columns"] == json.loads(first)["columns"]
    assert again["correlated"] == json.loads(first)["correlated"]


def test_a_cancelled_run_stops():
    context = context_of(cancelled=lambda: True)
    with pytest.raises(kit.Cancelled):
        profile.Profile().run(values.Table(pa.table({"x": [1]})), context)


def test_a_design_reads_from_it_what_it_needs():
    prose = [f"this is finding {n}" for n in range(30)]
    told = profiles.read(look({"y": [None, *range(29)], "t": prose}))
    assert told.rows == 30
    assert told.names == ["y", "t"]
    assert told.has_text
    assert told.column("y") == profiles.Column("y", nulls=1, distinct=29)


def test_a_forecast_is_designed_on_the_profile_of_the_real_series(tmp_path):
    params = {"uri": series.write(tmp_path).as_uri(), "time": "week", "target": "co2_ppm"}
    services = kit.Services(data_roots=(str(tmp_path),))
    found = ingest.Table(uri=params["uri"]).run(context_of(tmp_path, services=services))
    told = look(found.table.arrow)
    assert [each["kind"] for each in told["columns"]] == ["time", "number"]
    made = templates.design("time-series-forecast", params | {"horizon": 13, "season": 52}, told)
    assert catalog.Catalog().check(made) == []
    assert "filled" in [each.id for each in made.stages]


@pytest.mark.parametrize("name", ["tabular-classification", "tabular-regression"])
def test_a_table_is_designed_for_on_the_profile_of_real_data(wine, name):
    told = look(pa.Table.from_pandas(wine, preserve_index=False))
    made = templates.design(name, {"uri": "wine.csv", "target": "target"}, told)
    assert catalog.Catalog().check(made) == []


def test_the_page_shows_the_profile_in_tables(wine, tmp_path):
    frame = wine.assign(twice=wine["alcohol"] * 2)
    stage = profile.Profile()
    report = stage.run(values.Table.from_pandas(frame), context_of(tmp_path))
    ports = dict.fromkeys(port.name for port in page.Html.__stage__.inputs)
    text = page.Html().run(**ports | {"profile": report}, context=context_of(tmp_path)).text
    assert report.data["summary"] in text
    assert text.count("<table>") == 3
    assert "it says nearly the same as" in text
    assert all(f"<td>{name}</td>" in text for name in frame)


def test_the_stage_is_listed_with_its_ports():
    definition = registry.stages()["quality.profile"]
    assert [(port.name, port.kind) for port in definition.inputs] == [("table", "table")]
    assert [(port.name, port.kind) for port in definition.outputs] == [("report", "report")]
