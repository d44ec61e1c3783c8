"""What the gate lets through, and what it says of the rest."""

import math

import msgspec
import pyarrow as pa
import pytest

from stages import values
from stages.quality import expect


def check(data, **params):
    stage = msgspec.convert(params, expect.Expect)
    return stage.run(values.Table(pa.table(data)))


def test_a_broken_minimum_names_column_expectation_count_and_rows():
    with pytest.raises(expect.Unexpected, match=r"'alcohol', min: 2 rows.*\[1, 3\]"):
        check({"alcohol": [1.0, -1.0, None, -2.0]}, columns={"alcohol": {"min": 0}})


def test_infinity_breaks_what_is_finite_by_default():
    with pytest.raises(expect.Unexpected, match="finite: 1 rows"):
        check({"x": [1.0, math.inf]}, columns={"x": {}})


def test_rows_are_dropped_or_set_aside():
    rule = {"min": 0, "action": "quarantine"}
    done = check(
        {"x": [1, -1, 2], "y": [1, 1, 9]}, columns={"x": rule, "y": {"max": 5}}, action="drop"
    )
    assert done.table.arrow["x"].to_pylist() == [1]
    assert done.quarantined.arrow["x"].to_pylist() == [-1]
    assert done.metrics.values["dropped"] == 1


def test_imputing_takes_the_median_of_good_rows_only():
    rule = {"nullable": False, "action": "impute"}
    done = check({"x": [1.0, math.inf, None, 3.0]}, columns={"x": rule})
    assert done.table.arrow["x"].to_pylist() == [1.0, 2.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"unique": True}, "unique"),
        ({"values": ["a"]}, "values"),
        ({"pattern": "a+"}, "pattern"),
        ({"type": "number"}, "type"),
        ({"max_null_fraction": 0.1}, "max_null_fraction"),
    ],
)
def test_each_rule_on_text_is_told(rule, said):
    with pytest.raises(expect.Unexpected, match=said):
        check({"t": ["a", "b", "b", None]}, columns={"t": rule})


def test_too_few_rows_left_is_a_fault():
    with pytest.raises(expect.Unexpected, match="0 rows remain"):
        check({"x": [-1]}, columns={"x": {"min": 0}}, action="drop", min_rows=1)
