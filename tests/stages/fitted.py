"""Owns small fitted models for the tests of stages that take one."""

from __future__ import annotations

from typing import Any

from sklearn import datasets, linear_model, pipeline, preprocessing

from stages import models, values


def wine_tables() -> tuple[values.Table, values.Table]:
    frame = datasets.load_wine(as_frame=True).frame.sample(frac=1, random_state=0)
    return values.Table.from_pandas(frame[:120]), values.Table.from_pandas(frame[120:])


def model_of(table: values.Table, target: str, task: str, estimator: Any) -> models.Model:
    frame = table.pandas()
    columns = [name for name in frame.columns if name != target]
    whole = pipeline.Pipeline([("scale", preprocessing.StandardScaler()), ("model", estimator)])
    whole.fit(frame[columns], frame[target])
    card = models.ModelCard(
        framework="sklearn",
        estimator=type(estimator).__name__,
        task=task,
        target=target,
        columns=[models.Column(name, "double") for name in columns],
        classes=whole.classes_.tolist() if task == "classification" else [],
        params={"C": 1.0},
        libraries=models.library_versions("scikit-learn"),
    )
    return models.Model.from_sklearn(whole, card)


def wine_model(strength: float = 1.0) -> models.Model:
    return model_of(
        wine_tables()[0], "target", "classification", linear_model.LogisticRegression(C=strength)
    )
