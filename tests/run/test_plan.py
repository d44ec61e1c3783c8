from __future__ import annotations

import time

import pytest

from agent.run import plan
from protocol import pipelines
from protocol import problems as wire
from tests.run import theatre

S = pipelines.Stage


def problems(*stages: pipelines.Stage) -> list[tuple[str, str]]:
    with pytest.raises(plan.InvalidPipeline) as caught:
        theatre.planned(*stages)
    return [(p.code, p.path.removeprefix("$.pipeline.stages")) for p in caught.value.problems]


def test_all_problems_are_told_at_once_with_their_paths():
    found = problems(
        S("a", "mkae"),
        S("a", "make"),
        S("b", "work"),
        S("c", "work", inputs={"table": "nobody", "tabel": "b"}),
        S("run", "make"),
        S("no good", "make"),
        S("d", "work", inputs={"table": "b.nothing"}, needs=["gone"]),
        S("e", "make", when=pipelines.Condition("gone.m", ">", 1)),
    )
    assert found == [
        ("unknown_stage", "[0].use"),
        ("duplicate_id", "[1].id"),
        ("invalid_field", "[4].id"),
        ("invalid_field", "[5].id"),
        ("unknown_input", "[2].inputs.table"),
        ("unknown_input", "[3].inputs.table"),
        ("unknown_input", "[3].inputs.tabel"),
        ("unknown_input", "[6].inputs.table"),
        ("unknown_input", "[6].needs[0]"),
        ("unknown_input", "[7].when.metric"),
    ]


def test_a_mistyped_stage_gets_a_hint():
    with pytest.raises(plan.InvalidPipeline) as caught:
        theatre.planned(S("a", "mkae"))
    assert caught.value.problems[0].hint == "did you mean 'make'?"


def test_a_cycle_names_its_stages_in_order():
    with pytest.raises(plan.InvalidPipeline) as caught:
        theatre.planned(
            S("z", "make"),
            S("a", "work", inputs={"table": "c"}),
            S("b", "work", inputs={"table": "a"}),
            S("c", "work", inputs={"table": "b"}),
            S("d", "work", inputs={"table": "c"}),
        )
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("cycle", "$.pipeline.stages[1]")
    assert problem.message.endswith("a → b → c → a")


@pytest.mark.parametrize(
    ("stages", "code", "path"),
    [
        (
            [S("m", "model", inputs={"table": "a"}), S("w", "work", inputs={"table": "m"})],
            "type_mismatch",
            "[2].inputs.table",
        ),
        (
            [S("m", "model", inputs={"table": "a"}), S("w", "work", inputs={"table": "m.model"})],
            "type_mismatch",
            "[2].inputs.table",
        ),
        (
            [S("b", "both"), S("w", "work", inputs={"table": "b"})],
            "unknown_input",
            "[2].inputs.table",
        ),
        ([S("f", "make", for_each=pipelines.ForEach("a"))], "type_mismatch", "[1].for_each.items"),
        (
            [
                S("l", "list"),
                S("f", "make", for_each=pipelines.ForEach("l", "x")),
                S("w", "work", inputs={"table": "f"}),
            ],
            "type_mismatch",
            "[3].inputs.table",
        ),
        (
            [S("f", "make", on_failure=pipelines.Fallback("gone"))],
            "unknown_input",
            "[1].on_failure.fallback",
        ),
        ([S("f", "make", on_failure=pipelines.Fallback("f"))], "cycle", "[1]"),
        (
            [
                S("f", "make", on_failure=pipelines.Fallback("g")),
                S("g", "work", inputs={"table": "f"}),
            ],
            "cycle",
            "[1]",
        ),
        (
            [
                S("f", "make", on_failure=pipelines.Fallback("g")),
                S("g", "model", inputs={"table": "a"}),
                S("w", "work", inputs={"table": "f"}),
            ],
            "type_mismatch",
            "[1].on_failure.fallback",
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, code, path):
    assert problems(S("a", "make"), *stages) == [(code, path)]


def test_a_plan_of_ten_thousand_stages_takes_well_under_a_second():
    stages = [S("s0", "make")]
    stages += [S(f"s{i}", "work", inputs={"table": f"s{i // 2}"}) for i in range(1, 2)]
    stages += [S(f"s{i}", "work", inputs={"table": f"s{i - 1}"}) for i in range(2, 10_000)]
    stages[1] = S("s1", "work", inputs={"table": "s0"})
    began = time.perf_counter()
    found = theatre.planned(*stages)
    assert time.perf_counter() - began < 2
    assert found.priority == tuple(range(10_000))


def test_too_many_stages_are_refused():
    pipeline = pipelines.Pipeline("p", [S("a", "make"), S("b", "make")])
    with pytest.raises(plan.InvalidPipeline) as caught:
        plan.plan(pipeline, theatre.KINDS, max_stages=1, max_fan_out=1)
    assert caught.value.problems[0].code == "payload_too_large"


def test_a_bare_stage_with_several_fitting_outputs_means_the_one_named_as_its_kind():
    planned = theatre.planned(S("a", "gate"), S("b", "work", inputs={"table": "a"}))
    assert [binding.source_port for binding in planned.bindings[1]] == ["table"]


MANY = range(5_000)
ALIKE = "stage-that-has-a-rather-long-name-of-which-little-differs-"
LONG = "".join(chr(0x4E00 + n % 1_000) for n in range(100_000))


@pytest.mark.parametrize(
    "stages",
    [
        [S(f"a{n}", f"mkae{n}") for n in MANY],
        [S(f"{ALIKE}{n:05}", "make", needs=[f"{ALIKE}{n:05}x"]) for n in MANY],
        [S("a", "make", needs=[f"x{n}" for n in range(100_000)])],
        [S(LONG, "make"), S("a", "make", needs=[LONG[1:]])],
        [S(f"a{n}", "work", inputs={"table": f"a{(n + 1) % len(MANY)}"}) for n in MANY],
    ],
    ids=["kinds", "needs", "many needs", "long names", "circle"],
)
def test_what_is_wrong_with_a_large_pipeline_is_found_at_once_and_told_in_few_words(stages):
    began = time.process_time()
    with pytest.raises(plan.InvalidPipeline) as caught:
        theatre.planned(*stages)
    assert time.process_time() - began < 1
    told = caught.value.problems
    assert len(told) <= wire.MAX_PROBLEMS
    assert all(len(one.message) <= 1_000 for one in told)
