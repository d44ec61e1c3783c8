"""Owns the stage `evaluate.holdout`: how good a model is on rows it has never seen."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import msgspec

from stages import kit, models, values
from stages.evaluate import baselines, curves, intervals, predictions, scores


class Evaluated(NamedTuple):
    """What an evaluation gives."""

    metrics: values.Metrics
    predictions: values.Table


@kit.stage(
    "evaluate.holdout", libraries=("scikit-learn", "torch", "pillow", "tokenizers", "transformers")
)
class Holdout(kit.Stage, frozen=True):
    """Score a model on held-out rows against a naive baseline, with confidence intervals."""

    season: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Rows per season of a forecast; 1 (the last value) where it is not given."""
    time: str | None = None
    """The time column: rows are put in its order, and it is kept with the predictions."""
    resamples: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = intervals.RESAMPLES
    """Bootstrap resamples for the intervals; 0 leaves them out."""
    importances: bool = False
    """Permutation importances: slow for many columns."""

    def run(
        self,
        model: models.Model,
        table: values.Table,
        train: values.Table | None,
        context: kit.Context,
    ) -> Evaluated:
        """Predict, measure, compare with the baseline; `train` gives the baseline its history."""
        table, train = self._ordered(table), None if train is None else self._ordered(train)
        found = predictions.predict(model, table)
        card = model.card
        history = None if train is None else predictions.target(train, card.target, card.task)
        name, naive = baselines.naive(found, history, self.season)
        measured = self._measured(found, history)
        base = baselines.measure(found, naive)
        details: dict[str, Any] = {
            "task": card.task,
            "target": card.target,
            "rows": len(found.actual),
            "estimator": card.estimator,
            "baseline": {"name": name, "values": base},
        } | curves.details(found)
        if self.resamples:
            context.progress(0.5, "resampling for confidence intervals")
            details["intervals"] = intervals.bootstrap(
                found.measure, len(found.actual), context.seed, self.resamples
            )
        if card.task != "classification":
            details["series"] = _series(table, self.time, found, naive)
        if self.importances:
            context.progress(0.7, "permuting columns")
            details["importances"] = curves.importances(model, table, context.seed)
        prefixed = {f"baseline_{key}": value for key, value in base.items()}
        return Evaluated(values.Metrics(measured | prefixed, details), _table(table, found, naive))

    def _ordered(self, table: values.Table) -> values.Table:
        if self.time is None:
            return table
        if self.time not in table.columns:
            msg = f"the table has no column {self.time!r}"
            raise kit.DataFault(msg, path="$.time")
        return values.Table(table.arrow.sort_by(self.time))

    def _measured(self, found: predictions.Predictions, history: Any) -> dict[str, float]:
        measured = found.measure()
        if found.task == "forecast" and history is not None:
            season = self.season or 1
            measured["mase"] = scores.mase(found.actual, found.predicted, history, season)
        return {name: value for name, value in measured.items() if math.isfinite(value)}


def _series(
    table: values.Table, time: str | None, found: predictions.Predictions, naive: Any
) -> dict[str, list[Any]]:
    stamps = table.arrow[time].to_pylist() if time else list(range(len(found.actual)))
    return {
        "time": [str(stamp) for stamp in stamps],
        "actual": found.actual.tolist(),
        "predicted": found.predicted.tolist(),
        "baseline": naive.tolist(),
    }


def _table(table: values.Table, found: predictions.Predictions, naive: Any) -> values.Table:
    """Keep the rows with their predictions beside them; without binary columns, as images."""
    import pyarrow as pa

    large = [f.name for f in table.arrow.schema if pa.types.is_binary(f.type)]
    arrow = table.arrow.drop_columns(large)
    columns = {"predicted": found.predicted, "baseline": naive}
    if found.probabilities is not None:
        for place, label in enumerate(found.classes):
            columns[f"probability_{label}"] = found.probabilities[:, place]
    for name, column in columns.items():
        unique = name if name not in arrow.column_names else f"{name}_"
        arrow = arrow.append_column(unique, pa.array(column.tolist()))
    return values.Table(arrow)
