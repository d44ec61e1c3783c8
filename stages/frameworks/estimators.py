"""Owns the allow-list of estimators: by name, never by import path."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from stages.frameworks import faults

TAKES_OBJECTS = frozenset(
    {
        "CalibratedClassifierCV",
        "ClassifierChain",
        "FixedThresholdClassifier",
        "MultiOutputClassifier",
        "MultiOutputRegressor",
        "OneVsOneClassifier",
        "OneVsRestClassifier",
        "OutputCodeClassifier",
        "RegressorChain",
        "SelfTrainingClassifier",
        "StackingClassifier",
        "StackingRegressor",
        "TransformedTargetRegressor",
        "TunedThresholdClassifierCV",
        "VotingClassifier",
        "VotingRegressor",
    }
)
"""Meta-estimators that can't be described by plain parameters."""
TAKES_MANY_TARGETS = frozenset(
    {
        "CCA",
        "MultiTaskElasticNet",
        "MultiTaskElasticNetCV",
        "MultiTaskLasso",
        "MultiTaskLassoCV",
        "PLSCanonical",
    }
)
EXTRAS = {
    "lightgbm": ("LGBMClassifier", "LGBMRegressor"),
    "xgboost": ("XGBClassifier", "XGBRegressor"),
}
"""Trusted beside scikit-learn where they are installed."""


@functools.cache
def known() -> dict[str, type[Any]]:
    """Collect every estimator that may be asked for."""
    from sklearn import utils

    left_out = TAKES_OBJECTS | TAKES_MANY_TARGETS
    found = {
        name: cls
        for name, cls in utils.all_estimators(type_filter=["classifier", "regressor"])
        if name not in left_out and cls.__module__.startswith("sklearn.")
    }
    return found | _extras()


def _extras() -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {}
    for module, names in EXTRAS.items():
        try:
            library = importlib.import_module(module)
        except ImportError:
            continue
        found.update({name: getattr(library, name) for name in names})
    return found


def named(name: str) -> type[Any]:
    """Look an estimator up; raise UnknownName with close matches."""
    try:
        return known()[name]
    except KeyError:
        raise faults.UnknownName("estimator", name, known(), "$.model") from None


def is_classifier(cls: type[Any]) -> bool:
    """Tell a classifier from a regressor."""
    from sklearn import base

    return issubclass(cls, base.ClassifierMixin)


def build(name: str, params: dict[str, Any], *, seed: int, cpu: float) -> Any:
    """Make an unfitted estimator with checked parameters, seeded and held to its CPUs."""
    cls = named(name)
    defaults = cls().get_params(deep=False)
    for key in params:
        if key not in defaults:
            raise faults.UnknownName(f"parameter of {name}", key, defaults, f"$.params.{key}")
    fixed = {"random_state": seed, "n_jobs": max(1, int(cpu))}
    return cls(**({k: v for k, v in fixed.items() if k in defaults} | _plain(params)))


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    """Give lists as tuples, which is what scikit-learn's parameter checks expect of sizes."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}


def early_stopping(name: str, params: dict[str, Any], rows: int, task: str) -> dict[str, Any]:
    """Choose early stopping where the estimator has it, the rows allow it and nobody chose.

    Not for a forecast: the estimators hold out rows at random, which looks into the future.
    """
    defaults = named(name)().get_params(deep=False)
    chosen = {"early_stopping", "n_iter_no_change"} & params.keys()
    if chosen or rows < EARLY_STOPPING_ROWS or task == "forecast":
        return {}
    if "early_stopping" in defaults:
        return {"early_stopping": True}
    if "validation_fraction" in defaults and "n_iter_no_change" in defaults:
        return {"n_iter_no_change": 10}
    return {}


EARLY_STOPPING_ROWS = 1000
"""With fewer rows the held-out part says too little."""
