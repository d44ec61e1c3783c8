"""Owns stages that make models whose predictions tell them apart, and rows for them."""

from __future__ import annotations

from typing import Literal

from stages import kit, models, values


@kit.stage("serving.fit", cacheable=False)
class Fit(kit.Stage, frozen=True):
    """Fit a line through zero: what it predicts for 1 is its slope."""

    slope: float
    kind: Literal["line", "patient", "slow"] = "line"
    """`patient` takes missing values for zero; `slow` asks the same a thousand times."""

    def run(self) -> models.Model:
        import pandas as pd
        from sklearn import ensemble, impute, linear_model, pipeline

        frame = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.0, self.slope, 2 * self.slope]})
        line = linear_model.LinearRegression(fit_intercept=False)
        if self.kind == "patient":
            zero = impute.SimpleImputer(strategy="constant", fill_value=0.0)
            line = pipeline.make_pipeline(zero, line)
        if self.kind == "slow":
            line = ensemble.BaggingRegressor(line, n_estimators=1000, bootstrap=False)
        line.fit(frame[["x"]], frame["y"])
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
    slope: float = 0.0

    def run(self) -> values.Table:
        import pyarrow as pa

        y = [self.slope * (x or 0.0) for x in self.x]
        return values.Table(pa.table({"x": self.x, "y": y}))
