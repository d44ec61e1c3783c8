"""Owns the stage that makes the models whose serving is measured."""

from __future__ import annotations

from typing import Any, Literal

from stages import kit, models

Kind = Literal["logistic", "forest"]


def fitted(kind: Kind) -> tuple[Any, Any]:
    """Fit a classifier of wines; give it and its rows."""
    from sklearn import datasets, ensemble, linear_model, pipeline, preprocessing

    wine = datasets.load_wine(as_frame=True)
    made = {
        "logistic": pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression()
        ),
        "forest": ensemble.RandomForestClassifier(100, random_state=0),
    }[kind]
    return made.fit(wine.data, wine.target), wine.data


@kit.stage("bench.fit", cacheable=False)
class Fit(kit.Stage, frozen=True):
    """Fit one of them."""

    kind: Kind

    def run(self) -> models.Model:
        """Fit it."""
        made, rows = fitted(self.kind)
        card = models.ModelCard(
            framework="sklearn",
            estimator=type(made).__name__,
            task="classification",
            target="target",
            columns=[models.Column(name, "double") for name in rows.columns],
            classes=[0, 1, 2],
        )
        return models.Model.from_sklearn(made, card)
