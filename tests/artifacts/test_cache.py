"""Owns what the step cache promises: what a key is made of, what is found, what is explained."""

from __future__ import annotations

import shutil

import pytest

from agent.artifacts import cache, sources, store
from stages import kit, values
from tests.artifacts import samples


@kit.stage("caching.join", libraries=("msgspec", "no-such-library"), cache_ignores=("note",))
class Join(kit.Stage, frozen=True):
    """Take two tables, and a note that changes nothing."""

    def run(self, left: values.Table, rest: list[values.Table], note: values.Text) -> values.Table:
        raise NotImplementedError


@kit.stage("caching.other")
class Other(kit.Stage, frozen=True):
    """Be another stage in the same module."""

    def run(self, left: values.Table) -> values.Table:
        raise NotImplementedError


INPUTS = {"left": "sha256:a", "rest": ["sha256:b", "sha256:c"], "note": "sha256:d"}


def gathered(cls=Join, params=None, seed=0, inputs=None, source="", **more):
    inputs = {**INPUTS, **(inputs or {})}
    made = cache.components(cls.__stage__, params or {"how": "inner"}, seed, inputs, source)
    return made | more


def steps_of(kept):
    return cache.Cache(kept)


def remembered(kept, parts=None, number=0):
    """Keep a record with one output; give its key and the output."""
    parts = parts or gathered()
    ref = kept.put(samples.report(number))
    key = cache.key_of(parts)
    steps_of(kept).remember("caching.join", key, parts, {"report": ref}, {"mae": 0.5})
    return key, ref


def test_a_key_is_made_of_everything_that_decides_the_outputs():
    assert set(gathered()) == {
        "stage",
        "code",
        "libraries",
        "params",
        "seed",
        "inputs",
        "source",
    }
    assert gathered()["code"] == sources.code_digest(Join.__stage__)
    assert gathered()["libraries"]["no-such-library"] == "absent"
    assert cache.key_of(gathered()) == cache.key_of(gathered())


@pytest.mark.parametrize(
    "change",
    [
        {"cls": Other},
        {"params": {"how": "outer"}},
        {"params": {"how": "inner", "fill": None}},
        {"seed": 1},
        {"inputs": {"left": "sha256:x"}},
        {"inputs": {"rest": ["sha256:c", "sha256:b"]}},
        {"inputs": {"rest": ["sha256:b"]}},
        {"source": "etag"},
        {"code": "other"},
        {"libraries": {"msgspec": "0", "no-such-library": "absent"}},
    ],
)
def test_each_component_changes_the_key(change):
    assert cache.key_of(gathered(**change)) != cache.key_of(gathered())


def test_neither_an_ignored_port_nor_an_order_of_names_changes_the_key():
    assert cache.key_of(gathered(inputs={"note": "sha256:x"})) == cache.key_of(gathered())
    turned = dict(reversed(gathered().items()))
    assert cache.key_of(turned) == cache.key_of(gathered())


def test_what_is_remembered_is_found_with_its_outputs_and_metrics(kept):
    key, ref = remembered(kept)
    record = steps_of(kept).lookup("caching.join", key)
    assert (record.outputs, record.metrics) == ({"report": ref}, {"mae": 0.5})
    assert record.components == gathered()
    assert steps_of(kept).lookup("caching.join", "0" * 64) is None
    assert steps_of(kept).lookup("caching.other", key) is None


@pytest.mark.parametrize("how", ["corrupted", "truncated", "missing"])
def test_outputs_are_verified_before_they_are_given(kept, how):
    key, ref = remembered(kept)
    samples.spoil(ref, how)
    steps = steps_of(kept)
    assert steps.lookup("caching.join", key) is None
    assert steps.find("caching.join", key).outputs == {"report": ref}
    kept.put(samples.report())
    assert steps.lookup("caching.join", key).outputs == {"report": ref}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"key": 1}', b"\xff\xfe"])
def test_an_unreadable_record_is_as_good_as_none(kept, text):
    key, _ = remembered(kept)
    kept.write_record(f"cache/caching.join/{key}.json", text)
    steps = steps_of(kept)
    assert steps.lookup("caching.join", key) is None
    assert steps.explain("caching.join", gathered(seed=1)) is None
    assert steps.records() == []
    assert [record for _, _, record in steps.dated()] == [None]


def test_a_record_of_a_newer_agent_with_more_fields_is_read(kept):
    key, ref = remembered(kept)
    name = f"cache/caching.join/{key}.json"
    kept.write_record(name, kept.read_record(name)[:-1] + b',"since":"2030"}')
    assert steps_of(kept).lookup("caching.join", key).outputs == {"report": ref}


def test_a_store_that_was_moved_gives_nothing_that_leads_back(local, tmp_path):
    key, _ = remembered(local)
    shutil.copytree(tmp_path / "store", tmp_path / "moved")
    moved = store.Store((tmp_path / "moved").as_uri(), tmp_path / "copies")
    assert steps_of(moved).lookup("caching.join", key) is None
    assert steps_of(moved).find("caching.join", key) is not None
    _, ref = remembered(moved)
    assert steps_of(moved).lookup("caching.join", key).outputs == {"report": ref}


def explained(kept, **change):
    found = steps_of(kept).explain("caching.join", gathered(**change))
    return [(one.component, one.before, one.now) for one in found]


def test_without_another_record_there_is_nothing_to_compare_with(kept):
    assert steps_of(kept).explain("caching.join", gathered()) is None
    remembered(kept)
    assert steps_of(kept).explain("caching.join", gathered()) is None  # it is the same work


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 7}, [("seed", 0, 7)]),
        ({"params": {"how": "outer"}}, [("params.how", "inner", "outer")]),
        ({"params": {"how": "inner", "fill": 0}}, [("params.fill", None, 0)]),
        ({"params": {"how": "inner", "fill": None}}, [("params.fill", None, None)]),
        ({"inputs": {"left": "sha256:x"}}, [("inputs.left", "sha256:a", "sha256:x")]),
        ({"inputs": {"rest": []}}, [("inputs.rest", ["sha256:b", "sha256:c"], [])]),
        ({"source": "etag", "code": "new"}, [("code", None, "new"), ("source", "", "etag")]),
    ],
)
def test_an_explanation_names_each_component_that_differs(kept, change, expected):
    remembered(kept)
    code = gathered()["code"]
    wanted = [(n, code if n == "code" else before, now) for n, before, now in expected]
    assert explained(kept, **change) == wanted


def test_numbers_that_are_written_differently_differ(kept):
    remembered(kept, gathered(params={"how": 1}))
    assert explained(kept, params={"how": 1.0}) == [("params.how", 1, 1.0)]


def test_an_explanation_compares_with_the_most_similar_record(kept):
    remembered(kept, gathered(seed=3, params={"how": "cross"}, source="a"))
    remembered(kept, gathered(seed=3))
    remembered(kept, gathered(seed=4, source="b"))
    assert explained(kept, seed=5) == [("seed", 3, 5)]


def test_a_dropped_record_is_forgotten(kept):
    key, _ = remembered(kept)
    ((name, _),) = steps_of(kept).records()
    steps_of(kept).drop(name)
    assert steps_of(kept).find("caching.join", key) is None
