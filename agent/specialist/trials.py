"""Owns the heavy work, done in Ray workers: read and check, judge a candidate, fit the chosen one.

Each is the framework's; nothing here knows which, nor of the bus or of the search.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from agent.artifacts import errors, objects, store
from agent.specialist import faults
from protocol import artifacts, training
from stages import kit, models, values
from stages.frameworks import adapters, base

if TYPE_CHECKING:
    import pyarrow as pa


class Place(msgspec.Struct, frozen=True):
    """Where a worker keeps copies of artifacts, and how it reaches a store on the bus."""

    local: str
    bus: objects.Access | None = None

    def store(self, request: training.TrainingRequest) -> store.Store:
        """Open the store that a request names."""
        return store.Store(request.artifacts_uri, self.local, self.bus)


class Chosen(msgspec.Struct, frozen=True):
    """The candidate that won, and how far it was when it was judged."""

    params: dict[str, Any]
    metrics: dict[str, float]
    checkpoint: bytes | None


def prepare(request: training.TrainingRequest, place: Place) -> tuple[base.Setup, pa.Table]:
    """Read the data, and let the framework check it and the parameters."""
    table = _read(request, request.train, values.Table, place).arrow
    plan = _plan(request, place)
    with _translated():
        return adapters.named(request.framework).prepare(_lesson(request), table, plan), table


def score(
    setup: base.Setup,
    table: pa.Table,
    params: dict[str, Any],
    floor: float | None,
    checkpoint: bytes | None,
) -> Iterator[base.Step | base.Verdict]:
    """Judge one candidate; the last that is told is the verdict."""
    with _translated():
        framework = adapters.named(setup.lesson.framework)
        yield from framework.score(setup, table, params, floor=floor, checkpoint=checkpoint)


def fit(
    request: training.TrainingRequest,
    setup: base.Setup,
    table: pa.Table,
    chosen: Chosen,
    place: Place,
) -> artifacts.ArtifactRef:
    """Fit the chosen candidate and store the model."""
    framework = adapters.named(setup.lesson.framework)
    with _translated():
        fitted = framework.fit(setup, table, chosen.params, chosen.checkpoint)
    card = base.card_of(framework, setup, chosen.params, chosen.metrics, fitted.details)
    try:
        return place.store(request).put(models.Model(card, fitted.payload, framework.payload))
    except (errors.StoreAway, errors.StoreFull) as error:
        raise faults.StoreUnavailable(str(error)) from error


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn what a framework raises into what is sent."""
    try:
        yield
    except kit.StageFault as fault:
        raise faults.Refused(fault) from fault
    except MemoryError as error:
        raise faults.MemoryExceeded(f"a trial ran out of memory: {error}") from error


def _lesson(request: training.TrainingRequest) -> base.Lesson:
    return base.Lesson(
        framework=request.framework,
        model=request.model,
        target=request.target,
        task=request.task,
        params=request.params,
        samples={name: _example(space) for name, space in request.search.space.items()},
        folds=request.validation.folds,
        scheme=request.validation.scheme,
        group=request.validation.group,
        metric=request.metric,
        seed=request.seed,
        cpu=request.cpu,
    )


def _example(candidates: list[Any] | training.Range) -> Any:
    if isinstance(candidates, training.Range):
        return int(candidates.low) if candidates.integer else candidates.low
    return candidates[0]


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
