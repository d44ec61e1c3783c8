"""Owns what stands in for a model that could not be trained: the champion, or a naive baseline."""

from __future__ import annotations

from agent.artifacts import store
from agent.run import effects
from agent.training import requests
from protocol import artifacts
from stages import models, values
from stages.frameworks import adapters
from stages.register import champions
from stages.training import model

Outputs = dict[str, artifacts.ArtifactRef]


def stand_in(
    work: effects.Work, fallback: model.Fallback, kept: store.Store, tracking_uri: str
) -> tuple[str, Outputs]:
    """Give the name of what stands in, and the stage's outputs; blocking."""
    if fallback.use == "champion":
        name, found = _champion(fallback, tracking_uri)
    else:
        name, found = _baseline(requests.build_stage_inputs(work), kept)
    metrics, report = model.results(found.card.metrics, found.card.params, [])
    values_by_port: dict[str, values.Value] = {"model": found, "metrics": metrics, "report": report}
    return name, {port: kept.put(value) for port, value in values_by_port.items()}


def _champion(fallback: model.Fallback, tracking_uri: str) -> tuple[str, models.Model]:
    if fallback.model is None:
        msg = "the fallback names no registered model"
        raise ValueError(msg)
    found = champions.champion(tracking_uri, fallback.model)
    if found is None:
        msg = f"{fallback.model} has no champion"
        raise LookupError(msg)
    return f"champion {fallback.model} version {found.version}", found.model


def _baseline(
    asked: tuple[model.TrainModel, artifacts.ArtifactRef], kept: store.Store
) -> tuple[str, models.Model]:
    """Fit the most frequent class, or the mean: milliseconds, so it is done here in a thread."""
    from sklearn import dummy

    stage, ref = asked
    table = values.Table.load(kept.path(ref))
    classifier = adapters.named(stage.framework).natural_task(stage.model) == "classification"
    estimator = dummy.DummyClassifier() if classifier else dummy.DummyRegressor()
    frame = table.pandas()
    estimator.fit(frame.drop(columns=[stage.target]), frame[stage.target])
    card = models.ModelCard(
        framework="sklearn",
        estimator=type(estimator).__name__,
        task=stage.task or ("classification" if classifier else "regression"),
        target=stage.target,
        columns=[
            models.Column(field.name, str(field.type))
            for field in table.arrow.schema
            if field.name != stage.target
        ],
        classes=estimator.classes_.tolist() if classifier else [],
        libraries=models.library_versions("scikit-learn", "numpy", "skops"),
    )
    return f"baseline {card.estimator}", models.Model.from_sklearn(estimator, card)
