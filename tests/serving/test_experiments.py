"""Two versions are compared by outcomes: whoever looks at any time is rarely told what is wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving import experiments, sequences
from protocol import serving

ALPHA = 0.1
TERMS = serving.Versus(percent=50, alpha=ALPHA, max_outcomes=1_000, max_s=60)


def watched(chances, count, rng, alpha=ALPHA):
    """Draw outcomes of two versions in turn, and look after each; give the first answer."""
    before, new = (sequences.Sequence(alpha / 2) for _ in range(2))
    for place in range(count):
        before.see(float(rng.random() < chances[0]))
        new.see(float(rng.random() < chances[1]))
        if found := sequences.better(before, new):
            return found, place
    return None, count


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.9])
def test_equal_versions_are_told_apart_no_more_often_than_said_though_one_looks_all_the_time(
    chance,
):
    rng = random.Random(7)
    told = [watched((chance, chance), 400, rng)[0] for _ in range(300)]
    assert sum(one is not None for one in told) <= ALPHA * len(told)


def test_bounds_miss_the_mean_no_more_often_than_said_though_one_looks_all_the_time():
    rng, missed = random.Random(8), 0
    for _ in range(300):
        seen, outside = sequences.Sequence(ALPHA), False
        for _ in range(400):
            seen.see(rng.betavariate(2, 6))  # of mean a quarter
            low, high = seen.bounds
            outside |= not low <= 0.25 <= high
        missed += outside
    assert missed <= ALPHA * 300


@pytest.mark.parametrize(("chances", "said"), [((0.3, 0.6), "new"), ((0.6, 0.3), "before")])
def test_versions_that_differ_are_told_apart_soon(chances, said):
    rng = random.Random(9)
    told = [watched(chances, 1_000, rng) for _ in range(50)]
    assert [one for one, _ in told] == [said] * 50
    assert sorted(place for _, place in told)[25] < 250


@given(st.lists(st.floats(0, 1), max_size=50))
def test_bounds_stay_between_nothing_and_all_around_what_was_seen(values):
    seen = sequences.Sequence(ALPHA)
    for value in values:
        seen.see(value)
    low, high = seen.bounds
    assert 0 <= low <= high <= 1
    assert seen.count == len(values)
    if values:
        assert seen.mean == pytest.approx(sum(values) / len(values), abs=1e-9)


def experiment(most=experiments.MOST_KNOWN):
    return experiments.Experiment("line", TERMS, "old", "new", most)


def test_an_outcome_counts_once_for_each_key_and_for_the_version_that_answered():
    made = experiment()
    first, again, alone = (made.answered("new", key) for key in ("ada", "ada", ""))
    assert made.take(serving.Outcome(first, 1.0)) == ("new", True)
    assert made.take(serving.Outcome(first, 0.0)) == ("new", False)
    assert made.take(serving.Outcome(again, 0.0)) == ("new", False)
    assert made.take(serving.Outcome(alone, 0.0)) == ("new", True)
    assert made.take(serving.Outcome(made.answered("old", "bob"), 0.5)) == ("old", True)
    told = made.measured()
    assert (told["outcomes"], told["outcome_mean"], told["before_outcomes"]) == (2, 0.5, 1)


def test_an_outcome_of_an_unknown_prediction_is_refused():
    made = experiment(most=2)
    ids = [made.answered("new", "") for _ in range(3)]
    for unknown in ("nothing", ids[0]):
        with pytest.raises(experiments.UnknownPrediction, match="is known") as refused:
            made.take(serving.Outcome(unknown, 1.0))
        assert refused.value.problem.code == "not_found"
    assert made.take(serving.Outcome(ids[1], 1.0)) == ("new", True)


def test_an_experiment_ends_with_an_answer_or_without():
    made = experiment()
    for place in range(200):
        made.take(serving.Outcome(made.answered("old", f"o{place}"), 0.0))
        made.take(serving.Outcome(made.answered("new", f"n{place}"), 1.0))
    assert made.better == "new"
    assert made.why_open(59) is None
    assert "400 outcomes within 60 s" in made.why_open(60)
    other = experiment()
    for place in range(1_000):
        other.take(serving.Outcome(other.answered(("old", "new")[place % 2], ""), 0.5))
    assert other.better is None
    assert "1000 outcomes" in other.why_open(1)
