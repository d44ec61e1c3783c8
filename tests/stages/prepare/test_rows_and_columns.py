from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from stages import columns, kit, values
from stages.prepare import conditions, rows, series, shape

TABLE = values.Table(
    pa.table(
        {
            "n": [1, 2, 2, None, 5],
            "s": ["a", "b", "b", None, "true"],
            "t": pa.array([0, 1, 1, 4, 6], pa.int64()).cast(pa.timestamp("s")),
        }
    )
)


def make(cls, **params):
    return msgspec.convert(params, cls)


@pytest.mark.parametrize(
    ("column", "op", "value", "kept"),
    [
        ("n", ">=", 2, 3),
        ("n", "!=", 2, 2),
        ("s", "in", ["a", "b"], 3),
        ("s", "not_in", ["a"], 3),
        ("n", "null", None, 1),
        ("s", "not_null", None, 4),
        ("s", "contains", "ru", 1),
        ("t", ">", "1970-01-01T00:00:03", 2),
    ],
)
def test_a_condition_keeps_the_rows_that_meet_it(column, op, value, kept):
    where = [{"column": column, "op": op, "value": value}]
    found = make(rows.Filter, where=where).run(TABLE)
    assert found.table.rows() == kept
    assert found.report.data["dropped"] == 5 - kept


@pytest.mark.parametrize(
    ("column", "op", "value"),
    [("n", ">", "x"), ("s", "<", 3), ("n", "contains", "x"), ("t", ">", "soon"), ("n", "==", None)],
)
def test_a_senseless_comparison_is_a_data_fault(column, op, value):
    with pytest.raises(conditions.Incomparable) as raised:
        make(rows.Filter, where=[{"column": column, "op": op, "value": value}]).run(TABLE)
    assert raised.value.path == "$.where[0]"


def test_an_expression_is_not_evaluated():
    with pytest.raises(msgspec.ValidationError):
        make(rows.Filter, where=[{"column": "n", "op": "__import__('os')", "value": 1}])


def test_repeated_rows_go():
    assert make(rows.Deduplicate).run(TABLE).table.rows() == 4
    assert make(rows.Deduplicate, columns=["n"], keep="none").run(TABLE).table.rows() == 3


def test_a_partition_lists_keys_and_a_part_has_its_rows():
    keys = make(rows.Partition, column="n").run(TABLE).data
    assert keys == [1, 2, 5]
    counts = [make(rows.Part, column="n", value=key).run(TABLE).rows() for key in keys]
    assert counts == [1, 2, 1]
    with pytest.raises(rows.TooManyParts):
        make(rows.Partition, column="n", at_most=2).run(TABLE)


def test_columns_are_chosen_and_renamed():
    assert make(shape.Select, columns=["s", "n"], drop=["n"]).run(TABLE).columns == ["s"]
    assert make(shape.Rename, names={"n": "m"}).run(TABLE).columns == ["m", "s", "t"]
    with pytest.raises(shape.NameTaken):
        make(shape.Rename, names={"n": "s"}).run(TABLE)
    with pytest.raises(columns.NoSuchColumn):
        make(shape.Select, columns=["nope"]).run(TABLE)


def test_mixed_values_are_refused_or_become_gaps():
    mixed = values.Table(pa.table({"v": ["1", "2.5", "many"]}))
    with pytest.raises(shape.BadCast) as raised:
        make(shape.Cast, types={"v": "number"}).run(mixed)
    assert raised.value.path == "$.types.v"
    found = make(shape.Cast, types={"v": "number"}, errors="null").run(mixed)
    assert found.arrow["v"].to_pylist() == [1.0, 2.5, None]


def test_a_row_gets_the_label_of_the_first_rule_it_meets():
    rules = [
        {"label": "big", "where": [{"column": "n", "op": ">", "value": 4}]},
        {"label": "some", "where": [{"column": "n", "op": ">", "value": 1}]},
    ]
    found = make(shape.Label, column="l", rules=rules, default="none", drop_sources=True).run(TABLE)
    assert found.arrow["l"].to_pylist() == ["none", "some", "some", "none", "big"]
    assert "n" not in found.columns
    with pytest.raises(shape.MixedLabels):
        make(shape.Label, column="l", rules=rules, default=3).run(TABLE)


def test_gaps_are_filled_from_the_past_alone():
    found = make(series.Impute, method="forward", columns=["n"]).run(TABLE)
    assert found.table.arrow["n"].to_pylist() == [1, 2, 2, 2, 5]
    assert found.report.data["filled"] == {"n": 1}


def test_empty_periods_become_gaps_and_are_told():
    found = make(series.Resample, time="t", every="2s", aggregate="sum").run(TABLE)
    assert found.table.arrow["n"].to_pylist() == [3, None, None, 5] or found.report.data["gaps"]
    assert found.report.data["gaps"] == 2


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({"every": "sometimes"}, series.UnknownFrequency),
        ({"every": "ms", "at_most": 100}, series.TooManyRows),
        ({"every": "D", "group": "nope"}, columns.NoSuchColumn),
        ({"every": "D", "aggregate": {"s": "mean"}}, columns.NotNumeric),
    ],
)
def test_what_cannot_be_resampled_is_a_named_fault(params, fault):
    with pytest.raises(fault) as raised:
        make(series.Resample, time="t", **params).run(TABLE)
    assert isinstance(raised.value, kit.DataFault)
