"""Owns the unfitted pipeline of one candidate: feature engineering and estimator together."""

from __future__ import annotations

from typing import Any

import msgspec

from stages import kit, values
from stages.frameworks import base, estimators, faults

FEATURES = "features__"
ONE_HOT_AT_MOST = 50
"""A text column with more values than this is not one-hot encoded by default."""


def build(
    lesson: base.Lesson,
    facts: base.Facts,
    frame: Any,
    plan: values.FeaturePlan | None,
    params: dict[str, Any],
) -> Any:
    """Make the unfitted pipeline; `params` address the estimator, or `features__…` the plan."""
    from sklearn import pipeline

    own = {k: v for k, v in params.items() if not k.startswith(FEATURES)}
    own = lesson.params | own
    chosen = estimators.early_stopping(lesson.model, own, facts.rows, facts.task)
    model = estimators.build(lesson.model, own | chosen, seed=lesson.seed, cpu=lesson.cpu)
    features = _planned(plan, frame) if plan is not None else default_features(frame)
    whole = pipeline.Pipeline([("features", features), ("model", model)])
    return _address(whole, {k: v for k, v in params.items() if k.startswith(FEATURES)})


def _address(whole: Any, params: dict[str, Any]) -> Any:
    known = whole.get_params() if params else {}
    for key in params:
        if key not in known:
            candidates = [name for name in known if name.startswith(FEATURES)]
            raise faults.UnknownName("parameter", key, candidates, f"$.search.space.{key}")
    return whole.set_params(**params)


def _planned(plan: values.FeaturePlan, frame: Any) -> Any:
    from stages.features import plan as plans

    try:
        return plans.build(plan, list(frame.columns))
    except kit.StageFault as fault:
        raise faults.UnusableData(
            f"the feature plan cannot be used: {fault}", path="$.features", hint=fault.hint
        ) from fault


def default_features(frame: Any) -> Any:
    """Impute and scale numbers, one-hot encode columns of few values, leave the rest out."""
    from sklearn import compose, impute, preprocessing
    from sklearn import pipeline as pl

    numeric, categorical = _sorted_out(frame)
    if not numeric and not categorical:
        hint = "give a feature plan, as features.auto makes one"
        raise faults.UnusableData("no column can be used without a feature plan", hint=hint)
    scaled = pl.Pipeline(
        [
            ("impute", impute.SimpleImputer(strategy="median", keep_empty_features=True)),
            ("scale", preprocessing.StandardScaler()),
        ]
    )
    encoded = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    parts = [("numeric", scaled, numeric), ("categorical", encoded, categorical)]
    return compose.ColumnTransformer([part for part in parts if part[2]])


def _sorted_out(frame: Any) -> tuple[list[str], list[str]]:
    from pandas.api import types

    numeric, categorical = [], []
    for name in frame.columns:
        column = frame[name]
        if types.is_numeric_dtype(column) and not types.is_bool_dtype(column):
            numeric.append(name)
        elif types.is_datetime64_any_dtype(column):
            continue
        elif column.nunique() <= ONE_HOT_AT_MOST:
            categorical.append(name)
    return numeric, categorical


def plan_from(encoded: bytes | None) -> values.FeaturePlan | None:
    """Decode a plan as it travels to a worker."""
    if encoded is None:
        return None
    return values.FeaturePlan(msgspec.json.decode(encoded, type=list[values.FeatureStep]))
