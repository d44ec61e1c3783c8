from __future__ import annotations

import pathlib

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import columns, kit, values
from stages.prepare import split

CONTEXT = kit.Context(workdir=pathlib.Path(), seed=3)


def wine(rows=100, classes=3):
    return values.Table(
        pa.table({"row": range(rows), "quality": [row % classes for row in range(rows)]})
    )


def parts(table, **params):
    found = msgspec.convert(params, split.Split).run(table, CONTEXT)
    return found.train.arrow["row"].to_pylist(), found.test.arrow["row"].to_pylist()


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 80), st.floats(0.1, 0.6), st.integers(0, 99))
def test_every_row_is_on_exactly_one_side(rows, fraction, seed):
    train, test = parts(wine(rows), test_fraction=fraction, seed=seed, strategy="random")
    assert sorted(train + test) == list(range(rows))


def test_equal_seeds_split_equally_and_others_do_not():
    first = parts(wine(), target="quality", test_fraction=0.2, seed=7)
    assert first == parts(wine(), target="quality", test_fraction=0.2, seed=7)
    assert first != parts(wine(), target="quality", test_fraction=0.2, seed=8)
    assert parts(wine()) == parts(wine(), seed=3)


def test_classes_keep_their_shares():
    found = split.Split(target="quality", test_fraction=0.3).run(wine(90), CONTEXT)
    assert np.bincount(found.test.arrow["quality"].to_numpy()).tolist() == [9, 9, 9]


def test_groups_stay_whole():
    table = values.Table(pa.table({"row": range(60), "who": [f"g{r % 6}" for r in range(60)]}))
    train, test = parts(table, group="who", test_fraction=0.3)
    assert not {row % 6 for row in train} & {row % 6 for row in test}


def series(times):
    stamps = pa.array(np.array(times, "int64") * 3_600_000, pa.timestamp("ms"))
    return values.Table(pa.table({"row": times, "when": stamps}))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=8, max_size=60), st.integers(0, 3), st.integers(0, 4))
def test_test_rows_are_later_than_every_training_row(times, gap, hours):
    try:
        train, test = parts(series(times), time="when", gap=gap, embargo_s=hours * 3600)
    except split.TooFewGroups:
        return
    assert max(train) < min(test)
    assert max(train) <= min(test) - hours


@pytest.mark.parametrize(
    ("table", "params", "fault"),
    [
        (wine(), {"target": "qualty"}, columns.NoSuchColumn),
        (wine(), {"group": "no"}, columns.NoSuchColumn),
        (wine(), {"strategy": "time"}, columns.NoSuchColumn),
        (wine(), {"time": "row"}, columns.NotTime),
        (wine(classes=1), {"target": "quality"}, split.OneClass),
        (wine(classes=100), {"target": "quality", "strategy": "stratified"}, split.RareClass),
        (wine(classes=1), {"group": "quality"}, split.TooFewGroups),
        (wine(rows=0), {}, columns.EmptyTable),
        (
            values.Table(pa.table({"row": range(4), "y": [1.0, float("nan"), float("inf"), None]})),
            {"target": "y"},
            split.UnusableTarget,
        ),
        (
            values.Table(pa.table({"row": range(2), "when": ["yesterday", "5"]})),
            {"time": "when"},
            columns.NotTime,
        ),
    ],
)
def test_what_cannot_be_split_is_a_named_fault_with_a_hint(table, params, fault):
    with pytest.raises(fault) as raised:
        parts(table, **params)
    assert isinstance(raised.value, kit.DataFault)
    assert raised.value.hint


def test_a_misspelt_target_is_answered_with_the_right_one():
    with pytest.raises(columns.NoSuchColumn) as raised:
        parts(wine(), target="qualty")
    assert "'quality'" in raised.value.hint
    assert raised.value.path == "$.target"
