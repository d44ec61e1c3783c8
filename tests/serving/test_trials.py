"""Trials of new versions: who asks is always answered, and what a step shows decides."""

from __future__ import annotations

import asyncio
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving import routes, trials, verdict, warmth
from protocol import problems, serving

TERMS = serving.Canary(steps=[50], hold_s=10, min_requests=20, wait_s=60, max_error_rate=0.1)
DIES, HANGS = "dies", "hangs"


def refused(message="no"):
    return 400, msgspec.json.encode(problems.Problem("data_fault", message))


class Version:
    """A version that answers as it is told."""

    def __init__(self, key, answer):
        self.asked = 0
        self.go = asyncio.Event()
        self._answer = answer
        self.route = routes.Route(key, self._send, 1)

    async def _send(self, questions):
        self.asked += len(questions)
        if self._answer == DIES:
            raise ConnectionError
        if self._answer == HANGS:
            await self.go.wait()
        return [self._answer] * len(questions)

    async def end(self):
        self.go.set()
        await self.route.wait_idle()


def trial_of(new, old=(0, b"old"), percent=100, answer_s=0.05):
    before, candidate = Version("old", old), Version("new", new)
    return trials.Trial(before.route, candidate.route, percent, answer_s), before, candidate


async def test_each_version_gets_its_part_of_the_requests():
    trial, before, candidate = trial_of((0, b"new"), percent=25)
    told = [await trial.ask((b"", None), point / 100) for point in range(100)]
    assert told.count(("new", (0, b"new"))) == trial.candidate.answered == candidate.asked == 25
    assert told.count(("old", (0, b"old"))) == trial.before.answered == before.asked == 75


@pytest.mark.parametrize("new", [DIES, HANGS, refused()], ids=[DIES, HANGS, "refuses"])
async def test_what_the_new_version_does_not_answer_the_one_before_does(new):
    trial, _, candidate = trial_of(new)
    assert await trial.ask((b"", None), 0) == ("old", (0, b"old"))
    assert (trial.candidate.errors, trial.candidate.answered) == (1, 0)
    assert bool(trial.candidate.lost) == (new == DIES)
    assert trial.candidate.last_error
    await candidate.end()


async def test_what_nobody_can_answer_speaks_against_nobody():
    trial, *_ = trial_of(refused("bad row"), refused("bad row"))
    assert await trial.ask((b"", None), 0) == ("old", refused("bad row"))
    assert trial.candidate.asked == trial.before.asked == 0


async def test_a_shadow_is_asked_what_the_other_has_answered_and_nobody_hears_of_it():
    trial, _, candidate = trial_of((0, b"new"), percent=0)
    told = [await trial.ask((b"", None), point / 10) for point in range(10)]
    async with asyncio.timeout(5):
        while trial.candidate.compared < 10:  # noqa: ASYNC110 - tasks of this loop
            await asyncio.sleep(0)
    assert told == [("old", (0, b"old"))] * 10
    assert (candidate.asked, trial.candidate.answered, trial.candidate.different) == (10, 10, 10)
    await trial.close()


async def test_a_shadow_that_hangs_is_asked_a_few_at_a_time_and_left_alone_at_the_end():
    trial, _, candidate = trial_of(HANGS, percent=0, answer_s=60)
    for _ in range(2 * trials.MOST_COPIES):
        assert await trial.ask((b"", None), 0) == ("old", (0, b"old"))
    assert len(trial._copies) == trials.MOST_COPIES
    await trial.close()
    assert trial._copies == set()
    await candidate.end()


async def test_a_new_version_that_has_too_much_to_do_keeps_nobody_waiting():
    trial, _, candidate = trial_of(HANGS, answer_s=60)
    most = routes.MOST_WAITING + routes.AT_WORK_EACH
    waiting = [asyncio.create_task(candidate.route.ask((b"", None))) for _ in range(most)]
    await asyncio.sleep(0)
    assert await trial.ask((b"", None), 0) == ("old", (0, b"old"))
    await candidate.end()
    await asyncio.gather(*waiting)


async def test_requests_of_one_key_go_to_one_version_and_keys_are_shared_out():
    trial, before, _ = trial_of((0, b"new"), percent=30)
    router = routes.Router()
    router.shift("line", {before.route: 1.0})
    router.try_out("line", trial)
    told = [[(await router.ask("line", (b"", None), f"k{n}"))[0] for _ in "ab"] for n in range(500)]
    assert all(first == again for first, again in told)
    assert 110 < sum(first == "new" for first, _ in told) < 190


async def test_a_router_asks_a_trial_until_the_shares_are_set():
    trial, before, _ = trial_of((0, b"new"))
    router = routes.Router(lambda: 0.5)
    router.shift("line", {before.route: 1.0})
    router.try_out("line", trial)
    assert await router.ask("line", (b"", None)) == ("new", (0, b"new"))
    router.shift("line", {before.route: 1.0})
    assert await router.ask("line", (b"", None)) == ("old", (0, b"old"))


def tally(answered=0, errors=0, took_s=0.01, lost=""):
    made = trials.Tally()
    for _ in range(answered):
        made.took(took_s)
    for _ in range(errors):
        made.failed("it broke")
    made.lost = lost
    return made


@pytest.mark.parametrize(
    ("elapsed_s", "before", "new", "said"),
    [
        (1, tally(100), tally(5, lost="gone"), "gone"),
        (1, tally(100), tally(3, errors=3), "3 of 6 requests failed, at most 10.00%"),
        (1, tally(100), tally(40, errors=5), "5 of 45 requests failed"),
        (1, tally(100), tally(20, took_s=0.026), "its 95th percentile is 26.0 ms"),
        (60, tally(100), tally(19), "only 19 of 20 requests came within 60 s"),
    ],
)
def test_what_speaks_against_a_version_moves_the_requests_back(elapsed_s, before, new, said):
    assert said in verdict.why_back(TERMS, elapsed_s, before, new)


def test_a_shadow_that_answers_otherwise_too_often_is_rejected():
    new = tally(30)
    new.compared, new.different = 30, 3
    terms = msgspec.structs.replace(TERMS, max_different=0.1)
    assert verdict.why_back(terms, 1, tally(30), new) is None
    new.different = 4
    assert "4 of 30 answers are different" in verdict.why_back(terms, 1, tally(30), new)
    assert verdict.why_back(TERMS, 1, tally(30), new) is None
    assert verdict.measured(tally(30), new)["different"] == 4


@pytest.mark.parametrize(
    ("elapsed_s", "before", "new", "over"),
    [
        (1, tally(100), tally(3, errors=2), False),  # of 20 two may fail
        (9, tally(100), tally(100), False),
        (59, tally(100), tally(19), False),
        (10, tally(100), tally(20, took_s=0.024), True),
        (10, tally(19), tally(20, took_s=9), True),  # too few to compare with
        (10, tally(100), tally(18, errors=2), True),
        (10, tally(100, took_s=1e-4), tally(20, took_s=5e-3), True),  # as good as nothing
    ],
)
def test_a_step_is_over_once_it_has_lasted_and_enough_was_asked(elapsed_s, before, new, over):
    assert verdict.why_back(TERMS, elapsed_s, before, new) is None
    assert verdict.is_enough(TERMS, elapsed_s, new) is over


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 120))
def test_no_step_goes_on_with_more_errors_than_may_be(answered, errors, elapsed_s):
    new = tally(answered, errors)
    goes_on = verdict.is_enough(TERMS, elapsed_s, new) and not verdict.why_back(
        TERMS, elapsed_s, tally(100), new
    )
    if goes_on:
        assert new.asked >= TERMS.min_requests
        assert errors / new.asked <= TERMS.max_error_rate


@given(st.floats(0, 120))
def test_no_step_lasts_for_ever(later_s):
    new, elapsed_s = tally(3), max(TERMS.wait_s, TERMS.hold_s) + later_s
    assert verdict.why_back(TERMS, elapsed_s, tally(100), new)


@pytest.mark.parametrize(
    ("metric", "before", "new", "worse"),
    [
        ("rmse", 1.0, 1.1, False),
        ("rmse", 1.0, 1.11, True),
        ("rmse", 0.0, 1e-12, False),
        ("rmse", 1.0, math.nan, True),
        ("f1_macro", 0.9, 0.81, False),
        ("f1_macro", 0.9, 0.8, True),
        ("r2", -1.0, -1.05, False),
        ("r2", -1.0, -1.2, True),
        ("accuracy", 0.5, 0.9, False),
    ],
)
def test_a_metric_may_be_worse_by_a_share_of_what_it_was(metric, before, new, worse):
    assert verdict.is_worse(metric, before, new, 0.1) is worse


def test_a_percentile_of_nothing_is_left_out():
    assert "p95_ms" not in verdict.measured(tally(), tally())
    assert verdict.measured(tally(3), tally(20, errors=1)) == {
        "requests": 21.0,
        "errors": 1.0,
        "before_requests": 3.0,
        "p95_ms": 10.0,
        "before_p95_ms": 10.0,
    }


async def test_what_is_kept_warm_is_let_go_unless_it_is_taken():
    gone = []
    kept = warmth.Warm(gone.append)
    kept.keep("a", "a-1", 0.01)
    kept.keep("b", "b-1", 0.01)
    assert kept.take("b", "b-2") is None
    assert kept.take("b", "b-1") == "b-1"
    assert kept.take("b") is None
    async with asyncio.timeout(5):
        while not gone:  # noqa: ASYNC110 - a timer of this loop
            await asyncio.sleep(0)
    assert gone == ["a-1"]
    assert kept.take("a") is None
