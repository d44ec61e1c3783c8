"""Owns stages that make models whose predictions tell them apart, and rows for them."""

from __future__ import annotations

from stages import kit, models, values


@kit.stage("serving.fit", cacheable=False)
class Fit(kit.Stage, frozen=True):
    """Fit a line through zero: what it predicts for 1 is its slope."""

    slope: float

    def run(self) -> models.Model:
        import pandas as pd
        from sklearn import linear_model

        frame = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.0, self.slope, 2 * self.slope]})
        line = linear_model.LinearRegression(fit_intercept=False).fit(frame[["x"]], frame["y"])
        card = models.ModelCard(
            framework="sklearn",
            estimator="LinearRegression",
            task="regression",
            target="y",
            columns=[models.Column("x", "double")],
            metrics={"rmse": 0.0},
        )
        return models.Model.from_sklearn(line, card)


@kit.stage("serving.rows", cacheable=False)
class Rows(kit.Stage, frozen=True):
    """Give rows as they were held back from a training."""

    x: list[float | None]

    def run(self) -> values.Table:
        import pyarrow as pa

        return values.Table(pa.table({"x": self.x, "y": [0.0] * len(self.x)}))
