"""Owns scikit-learn, and what speaks its language, as a framework: judged on folds, refitted."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from stages import cards, skops_files
from stages.evaluate import scores
from stages.frameworks import base, estimators, folds, pipelines, tables

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "skops"
"""MLflow's serialization format; cloudpickle and pickle are never used."""


class Sklearn(base.Framework):
    """Cross-validates a pipeline of features and estimator, and fits the best on all rows."""

    names = ("sklearn", "lightgbm", "xgboost")
    payload = "model.skops"
    libraries = ("scikit-learn", "numpy", "skops")

    def natural_task(self, model: str) -> base.Task:
        """Tell a classifier from a regressor."""
        classifier = estimators.is_classifier(estimators.named(model))
        return "classification" if classifier else "regression"

    def prepare(self, lesson: base.Lesson, table: pa.Table, plan: bytes | None) -> base.Setup:
        """Check the data, and build one candidate, so that bad names are refused at once."""
        facts = tables.check(self, lesson, table)
        setup = base.Setup(lesson, facts, base.metric_of(lesson, facts.task), plan)
        frame, target, groups = tables.split(lesson, facts, table)
        pipelines.build(lesson, facts, frame, pipelines.plan_from(plan), lesson.samples)
        folds.splits(lesson, facts, target, groups)
        return setup

    def score(
        self,
        setup: base.Setup,
        table: pa.Table,
        params: dict[str, Any],
        *,
        floor: float | None,
        checkpoint: bytes | None,  # noqa: ARG002 - folds are quick: begun again
    ) -> Iterator[base.Step | base.Verdict]:
        """Cross-validate one candidate; whatever its estimator raises is its verdict.

        It is pruned once every fold so far is worse than `floor`, the worst fold of the best
        earlier candidate, and half of the folds are done.
        """
        started = time.perf_counter()
        try:
            verdict = _score(setup, table, params, floor)
        except (ValueError, TypeError, ArithmeticError) as error:
            verdict = base.Verdict("failed", error=f"{type(error).__name__}: {error}")
        yield msgspec.structs.replace(verdict, duration_s=time.perf_counter() - started)

    def fit(
        self,
        setup: base.Setup,
        table: pa.Table,
        params: dict[str, Any],
        checkpoint: bytes | None,  # noqa: ARG002 - it is fitted anew, on all rows
    ) -> base.Fitted:
        """Fit the chosen candidate on all rows."""
        frame, target, _ = tables.split(setup.lesson, setup.facts, table)
        plan = pipelines.plan_from(setup.plan)
        blank = pipelines.build(setup.lesson, setup.facts, frame, plan, params)
        return base.Fitted(skops_files.dump(blank.fit(frame, target)))

    def load(self, card: cards.ModelCard, payload: bytes) -> base.Predictor:  # noqa: ARG002
        """Load the pipeline."""
        return skops_files.load(payload)  # type: ignore[no-any-return]

    def blank(self, card: cards.ModelCard, payload: bytes) -> Any:
        """Give an unfitted copy of the whole pipeline."""
        from sklearn import base as sk

        return sk.clone(self.load(card, payload))

    def export(
        self, card: cards.ModelCard, payload: bytes, path: pathlib.Path, signature: Any
    ) -> None:
        """Write MLflow's own flavour of scikit-learn, as skops."""
        import mlflow.sklearn
        import skops.io

        requirements = [f"{name}=={version}" for name, version in card.libraries.items()]
        mlflow.sklearn.save_model(
            self.load(card, payload),
            path,
            serialization_format=FORMAT,
            skops_trusted_types=skops.io.get_untrusted_types(data=payload),
            signature=signature,
            pip_requirements=requirements or ["scikit-learn"],
        )


def _score(
    setup: base.Setup, table: pa.Table, params: dict[str, Any], floor: float | None
) -> base.Verdict:
    from sklearn import base as sk

    lesson, facts = setup.lesson, setup.facts
    frame, target, groups = tables.split(lesson, facts, table)
    blank = pipelines.build(lesson, facts, frame, pipelines.plan_from(setup.plan), params)
    rows: list[dict[str, float]] = []
    for train, test in folds.splits(lesson, facts, target, groups):
        fitted = sk.clone(blank).fit(frame.iloc[train], target[train])
        rows.append(_measure(setup, fitted, frame.iloc[test], target[test]))
        if _hopeless(setup, rows, floor):
            return base.Verdict("pruned", scores=_oriented(setup, rows))
    return _verdict(setup, rows)


def _measure(setup: base.Setup, fitted: Any, frame: Any, actual: Any) -> dict[str, float]:
    classes = setup.facts.classes
    predicted = fitted.predict(frame)
    probabilities = aligned_probabilities(fitted, frame, classes) if classes else None
    return {
        name: scores.compute(name, actual, predicted, probabilities, classes)
        for name in scores.names(setup.facts.task)
    }


def aligned_probabilities(fitted: Any, frame: Any, classes: list[Any]) -> Any:
    """Predict probabilities with a column for every class, those unseen in the fold included."""
    import numpy as np

    if not hasattr(fitted, "predict_proba"):
        return None
    found = fitted.predict_proba(frame)
    aligned = np.zeros((len(found), len(classes)))
    for column, label in enumerate(fitted.classes_.tolist()):
        aligned[:, classes.index(label)] = found[:, column]
    return aligned


def _oriented(setup: base.Setup, rows: list[dict[str, float]]) -> list[float]:
    return [scores.oriented(setup.metric, row[setup.metric]) for row in rows]


def _hopeless(setup: base.Setup, rows: list[dict[str, float]], floor: float | None) -> bool:
    total = setup.lesson.folds
    early = 2 * len(rows) < total or len(rows) == total
    return floor is not None and not early and max(_oriented(setup, rows)) < floor


def _verdict(setup: base.Setup, rows: list[dict[str, float]]) -> base.Verdict:
    import numpy as np

    found = _oriented(setup, rows)
    if not np.isfinite(found).all():
        return base.Verdict("failed", error=f"{setup.metric} is not a finite number in every fold")
    metrics: dict[str, float] = {}
    for name in rows[0]:
        column = np.array([row[name] for row in rows])
        if np.isfinite(column).all():
            metrics[f"cv_{name}_mean"] = float(column.mean())
            metrics[f"cv_{name}_std"] = float(column.std())
    return base.Verdict("complete", scores=found, metrics=metrics)
