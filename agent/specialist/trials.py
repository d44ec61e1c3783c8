"""Owns the heavy work, done in Ray workers: read and check, score a candidate, fit the chosen one.

Nothing here knows of the bus or of the search.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from agent.artifacts import errors, objects, store
from agent.specialist import data, faults, folds, pipelines
from protocol import artifacts, training
from stages import models, values
from stages.evaluate import scores

if TYPE_CHECKING:
    import pyarrow as pa


class Place(msgspec.Struct, frozen=True):
    """Where a worker keeps copies of artifacts, and how it reaches a store on the bus."""

    local: str
    bus: objects.Access | None = None

    def store(self, request: training.TrainingRequest) -> store.Store:
        """Open the store that a request names."""
        return store.Store(request.artifacts_uri, self.local, self.bus)


class Setup(msgspec.Struct, frozen=True):
    """What every candidate of a training shares."""

    request: training.TrainingRequest
    facts: data.Facts
    metric: str
    plan: bytes | None
    """The steps of the feature plan as JSON."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of a candidate; scores are per fold, higher is better."""

    state: Literal["complete", "failed", "pruned"]
    scores: list[float] = []
    metrics: dict[str, float] = {}
    """`cv_<metric>_mean` and `cv_<metric>_std`."""
    error: str = ""
    duration_s: float = 0.0

    @property
    def mean(self) -> float:
        """Average the folds."""
        return sum(self.scores) / len(self.scores)

    @property
    def std(self) -> float:
        """Give the folds' standard deviation."""
        mean = self.mean
        return float((sum((s - mean) ** 2 for s in self.scores) / len(self.scores)) ** 0.5)


def prepare(request: training.TrainingRequest, place: Place) -> tuple[Setup, pa.Table]:
    """Read and check the data, and build one candidate, so that bad names are refused at once."""
    table = _read(request, request.train, values.Table, place).arrow
    facts = data.check(request, table)
    plan = _plan(request, place)
    metric = _metric(request, facts)
    setup = Setup(request, facts, metric, plan)
    frame, target, groups = data.split(request, facts, table)
    example = {k: _example(v) for k, v in request.search.space.items()}
    pipelines.build(request, facts, frame, pipelines.plan_from(plan), example)
    folds.splits(request, facts, target, groups)
    return setup, table


def _read(
    request: training.TrainingRequest, ref: artifacts.ArtifactRef, kind: type[Any], place: Place
) -> Any:
    try:
        value = place.store(request).get(ref)
    except (errors.StoreAway, errors.StoreFull) as error:
        raise faults.StoreUnavailable(str(error)) from error
    except (errors.ArtifactError, OSError) as error:
        raise faults.BadArtifact(str(error)) from error
    if not isinstance(value, kind):
        msg = f"a {kind.kind} is needed, this is a {value.kind}"
        raise faults.BadRequest(msg)
    return value


def _plan(request: training.TrainingRequest, place: Place) -> bytes | None:
    if request.features is None:
        return None
    plan = _read(request, request.features, values.FeaturePlan, place)
    return msgspec.json.encode(plan.steps)


def _metric(request: training.TrainingRequest, facts: data.Facts) -> str:
    metric = request.metric or scores.DEFAULTS[facts.task]
    if metric not in scores.names(facts.task):
        raise faults.UnknownName(
            f"{facts.task} metric", metric, scores.names(facts.task), "$.metric"
        )
    return metric


def _example(candidates: list[Any] | training.Range) -> Any:
    if isinstance(candidates, training.Range):
        return int(candidates.low) if candidates.integer else candidates.low
    return candidates[0]


def score(setup: Setup, table: pa.Table, params: dict[str, Any], floor: float | None) -> Verdict:
    """Cross-validate one candidate; whatever its estimator raises is its verdict.

    It is pruned once every fold so far is worse than `floor`, the worst fold of the best earlier
    candidate, and half of the folds are done.
    """
    started = time.perf_counter()
    try:
        verdict = _score(setup, table, params, floor)
    except MemoryError as error:
        raise faults.MemoryExceeded(f"a trial ran out of memory: {error}") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        verdict = Verdict("failed", error=f"{type(error).__name__}: {error}")
    return msgspec.structs.replace(verdict, duration_s=time.perf_counter() - started)


def _score(setup: Setup, table: pa.Table, params: dict[str, Any], floor: float | None) -> Verdict:
    from sklearn import base

    request = setup.request
    frame, target, groups = data.split(request, setup.facts, table)
    plan = pipelines.plan_from(setup.plan)
    blank = pipelines.build(request, setup.facts, frame, plan, params)
    rows: list[dict[str, float]] = []
    for train, test in folds.splits(request, setup.facts, target, groups):
        fitted = base.clone(blank).fit(frame.iloc[train], target[train])
        rows.append(_measure(setup, fitted, frame.iloc[test], target[test]))
        if _hopeless(setup, rows, floor):
            return Verdict("pruned", scores=_oriented(setup, rows))
    return _verdict(setup, rows)


def _measure(setup: Setup, fitted: Any, frame: Any, actual: Any) -> dict[str, float]:
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


def _oriented(setup: Setup, rows: list[dict[str, float]]) -> list[float]:
    return [scores.oriented(setup.metric, row[setup.metric]) for row in rows]


def _hopeless(setup: Setup, rows: list[dict[str, float]], floor: float | None) -> bool:
    total = setup.request.validation.folds
    early = 2 * len(rows) < total or len(rows) == total
    return floor is not None and not early and max(_oriented(setup, rows)) < floor


def _verdict(setup: Setup, rows: list[dict[str, float]]) -> Verdict:
    import numpy as np

    found = _oriented(setup, rows)
    if not np.isfinite(found).all():
        return Verdict("failed", error=f"{setup.metric} is not a finite number in every fold")
    metrics: dict[str, float] = {}
    for name in rows[0]:
        column = np.array([row[name] for row in rows])
        if np.isfinite(column).all():
            metrics[f"cv_{name}_mean"] = float(column.mean())
            metrics[f"cv_{name}_std"] = float(column.std())
    return Verdict("complete", scores=found, metrics=metrics)


def fit(
    setup: Setup,
    table: pa.Table,
    params: dict[str, Any],
    metrics: dict[str, float],
    place: Place,
) -> artifacts.ArtifactRef:
    """Fit the chosen candidate on all rows and store the model."""
    request = setup.request
    frame, target, _ = data.split(request, setup.facts, table)
    plan = pipelines.plan_from(setup.plan)
    fitted = pipelines.build(request, setup.facts, frame, plan, params).fit(frame, target)
    card = models.ModelCard(
        framework=request.framework,
        estimator=request.model,
        task=setup.facts.task,
        target=request.target,
        columns=[models.Column(name, kind) for name, kind in setup.facts.columns],
        classes=setup.facts.classes,
        params=request.params | params,
        metrics=metrics,
        libraries=models.library_versions("scikit-learn", "numpy", "skops"),
        seed=request.seed,
    )
    model = models.Model.from_sklearn(fitted, card)
    try:
        return place.store(request).put(model)
    except (errors.StoreAway, errors.StoreFull) as error:
        raise faults.StoreUnavailable(str(error)) from error
