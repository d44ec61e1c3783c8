"""Owns a stage that makes a model of a table's columns, for tests that register one."""

from __future__ import annotations

from stages import kit, models, values


@kit.stage("security.fit", cacheable=False)
class Fit(kit.Stage, frozen=True):
    """Fit a line."""

    target: str

    def run(self, table: values.Table | None) -> models.Model:
        import pandas as pd
        from sklearn import linear_model

        few = pd.DataFrame({"x": [1.0, 2.0, 3.0], self.target: [2.0, 4.0, 6.0]})
        frame = table.pandas() if table else few
        columns = [name for name in frame.columns if name != self.target]
        line = linear_model.LinearRegression().fit(frame[columns], frame[self.target])
        card = models.ModelCard(
            framework="sklearn",
            estimator="LinearRegression",
            task="regression",
            target=self.target,
            columns=[models.Column(name, "double") for name in columns],
            metrics={"rmse": 0.0},
        )
        return models.Model.from_sklearn(line, card)
