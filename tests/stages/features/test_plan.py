from __future__ import annotations

import json

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import skops.io

from stages import kit, skops_files, values
from stages.features import encoders, plan

ROWS = 120


def step(encoder, names, **params):
    return values.FeatureStep(encoder, names, params)


def raw(seed=0):
    generator = np.random.default_rng(seed)
    return pa.table(
        {
            "a": [None if i % 7 == 0 else float(i % 11) for i in range(ROWS)],
            "b": generator.normal(size=ROWS),
            "colour": [
                None if i % 9 == 0 else ("red", "green", "blue")[i % 3] for i in range(ROWS)
            ],
            "flag": [None if i % 10 == 0 else bool(i % 2) for i in range(ROWS)],
            "text": [f"the cat {i % 5} sat" if i % 8 else None for i in range(ROWS)],
        }
    )


FRAME = raw().to_pandas()
TARGET = np.array([0, 1] * (ROWS // 2))
FILLED = step("impute_median", ["a", "b"])
CASES = [
    *([step(name, ["a", "b"])] for name, e in encoders.ENCODERS.items() if e.role == "keeps"),
    *([FILLED, step(name, ["a", "b"])] for name in ("poly", "pca", "target")),
    [FILLED, step("bins", ["b"], n_bins=3)],
    *([step(name, ["colour"])] for name in ("onehot", "ordinal", "target", "passthrough")),
    *([step(name, ["flag"])] for name in ("onehot", "ordinal")),
    *([step(name, ["text", "colour"])] for name in ("hashing", "text_tfidf", "text_hashing")),
    [step("missing", ["a", "b"]), FILLED],
    [FILLED, step("variance", [])],
    [FILLED, step("select_k_best", ["a", "b"], k=1)],
    [FILLED, step("select_k_best", [], k=1, score="f_regression")],
    [FILLED, step("onehot", ["colour"]), step("select_percentile", [], percentile=50)],
]


def test_every_encoder_has_a_case():
    covered = {given.encoder for case in CASES for given in case}
    assert covered == set(encoders.ENCODERS)


@pytest.mark.parametrize("steps", CASES, ids=lambda steps: "-".join(s.encoder for s in steps))
def test_a_plan_fits_transforms_and_is_stored_safely(steps):
    built = plan.build(values.FeaturePlan(steps), FRAME.columns)
    made = built.fit_transform(FRAME, TARGET)
    assert len(made) == ROWS
    assert len(plan.output_names(built)) == made.shape[1]
    payload = skops.io.dumps(built)
    unknown = skops.io.get_untrusted_types(data=payload)
    assert skops_files.foreign_types(unknown) == []
    assert "stages." not in json.dumps(unknown)
    again = skops.io.loads(payload, trusted=unknown)
    assert (
        again.transform(FRAME).astype(str).tolist() == built.transform(FRAME).astype(str).tolist()
    )


@pytest.mark.parametrize("steps", CASES, ids=lambda steps: "-".join(s.encoder for s in steps))
def test_fitting_twice_gives_the_same(steps):
    first, second = (
        plan.build(values.FeaturePlan(steps), FRAME.columns).fit_transform(FRAME, TARGET)
        for _ in range(2)
    )
    assert first.astype(str).tolist() == second.astype(str).tolist()


def test_a_plan_survives_its_file(tmp_path):
    given = values.FeaturePlan([step("pca", ["a"], n_components=0.9), step("onehot", ["colour"])])
    given.save(tmp_path / "plan")
    assert values.FeaturePlan.load(tmp_path / "plan").steps == given.steps


def test_imputing_comes_before_scaling_and_columns_not_named_are_dropped():
    built = plan.build(values.FeaturePlan([FILLED, step("standard", ["a"])]), FRAME.columns)
    made = built.fit_transform(FRAME)
    assert sorted(plan.output_names(built)) == ["a", "b"]
    scaled = made[:, plan.output_names(built).index("a")]
    assert np.isclose(scaled.mean(), 0)
    assert np.isclose(scaled.std(), 1)


def test_an_unseen_category_is_not_an_error():
    built = plan.build(values.FeaturePlan([step("onehot", ["colour"])]), FRAME.columns).fit(FRAME)
    other = FRAME.assign(colour="violet")
    assert not built.transform(other).any()


def test_only_the_columns_that_the_plan_names_are_needed_to_predict():
    built = plan.build(values.FeaturePlan([FILLED, step("onehot", ["colour"])]), FRAME.columns)
    built.fit(FRAME)
    fewer = FRAME[["colour", "a", "b"]]
    assert np.array_equal(built.transform(fewer), built.transform(FRAME))


@pytest.mark.parametrize(
    ("steps", "fault", "path", "hint"),
    [
        ([step("onehott", ["a"])], encoders.UnknownEncoder, "$.steps[0].encoder", "onehot"),
        (
            [FILLED, step("pca", ["a"], n_component=2)],
            encoders.UnknownParameter,
            "$.steps[1].params.n_component",
            "n_components",
        ),
        ([step("pca", ["zz"])], plan.MissingColumns, "$.steps[0].columns", "colour"),
        ([], plan.EmptyPlan, "$.steps", "feature stage"),
    ],
)
def test_a_bad_plan_is_refused_with_path_and_hint(steps, fault, path, hint):
    with pytest.raises(fault) as raised:
        plan.build(values.FeaturePlan(steps), FRAME.columns)
    assert isinstance(raised.value, kit.DataFault)
    assert raised.value.path == path
    assert hint in raised.value.hint


def test_a_plan_cannot_bring_a_function_in():
    with pytest.raises(encoders.UnknownParameter):
        encoders.make(step("select_k_best", [], score_func="os.system"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(
            b'[{"encoder":"x","columns":[],"code":"1"}]', type=list[values.FeatureStep]
        )
