"""Owns the stage `evaluate.cross_validation`: how a model's recipe does on folds of a table."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from stages import kit, models, values
from stages.evaluate import predictions, scores


class CrossValidated(NamedTuple):
    """What a cross-validation gives."""

    metrics: values.Metrics
    report: values.Report


@kit.stage("evaluate.cross_validation", libraries=("scikit-learn",))
class CrossValidation(kit.Stage, frozen=True):
    """Fit unfitted copies of a model's whole pipeline on folds and score each on the rest."""

    folds: Annotated[int, msgspec.Meta(ge=2, le=100)] = 5
    scheme: Literal["auto", "random", "stratified", "time"] = "auto"

    def run(self, model: models.Model, table: values.Table, context: kit.Context) -> CrossValidated:
        """Score each fold; features are fitted anew within it."""
        predictions.check_columns(model.card, table)
        rows = self._folds(model, table, context)
        measured: dict[str, float] = {}
        for name in rows[0]:
            found = [row[name] for row in rows]
            if all(math.isfinite(value) for value in found):
                mean = sum(found) / len(found)
                measured[f"cv_{name}_mean"] = mean
                spread = sum((value - mean) ** 2 for value in found) / len(found)
                measured[f"cv_{name}_std"] = math.sqrt(spread)
        details = {"task": model.card.task, "target": model.card.target, "folds": rows}
        report = {"title": "Cross-validation", "summary": f"{self.folds} folds", "folds": rows}
        return CrossValidated(values.Metrics(measured, details), values.Report(report))

    def _folds(
        self, model: models.Model, table: values.Table, context: kit.Context
    ) -> list[dict[str, float]]:
        from sklearn import base

        card = model.card
        target = predictions.target(table, card.target, card.task)
        frame = table.pandas()[[column.name for column in card.columns]]
        blank = _without_memory(model.blank())
        rows = []
        for train, test in self._splits(card.task, target, context.seed):
            context.progress(len(rows) / self.folds, f"fold {len(rows) + 1} of {self.folds}")
            fitted = base.clone(blank).fit(frame.iloc[train], target[train])
            predicted = fitted.predict(frame.iloc[test])
            rows.append(
                {
                    name: scores.compute(name, target[test], predicted, None, card.classes or None)
                    for name in scores.names(card.task)
                    if name not in scores.NEEDS_PROBABILITIES
                }
            )
        return rows

    def _splits(self, task: str, target: Any, seed: int) -> Any:
        from sklearn import model_selection as ms

        by_task = {"classification": "stratified", "forecast": "time"}
        scheme = by_task.get(task, "random") if self.scheme == "auto" else self.scheme
        splitter = {
            "stratified": lambda: ms.StratifiedKFold(self.folds, shuffle=True, random_state=seed),
            "random": lambda: ms.KFold(self.folds, shuffle=True, random_state=seed),
            "time": lambda: ms.TimeSeriesSplit(self.folds),
        }[scheme]()
        try:
            return list(splitter.split(target.reshape(-1, 1), target))
        except ValueError as error:
            raise kit.DataFault(f"the rows cannot be split: {error}", path="$.folds") from error


def _without_memory(blank: Any) -> Any:
    """Take away the folders where pipelines keep what they fitted: joblib reads pickles there."""
    kept = [name for name in blank.get_params() if name.split("__")[-1] == "memory"]
    return blank.set_params(**dict.fromkeys(kept))
