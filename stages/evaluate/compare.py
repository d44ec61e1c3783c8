"""Owns the stage `evaluate.compare`: is a model better than the champion and than a baseline."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from stages import kit, models, values
from stages.evaluate import baselines, intervals, predictions, scores
from stages.register import champions


@kit.stage("evaluate.compare", libraries=("scikit-learn",), cacheable=False)
class Compare(kit.Stage, frozen=True):
    """Compare a challenger with the registry's champion and a baseline on the same rows."""

    name: str
    """The registered model whose champion is met; without a champion the baseline is met alone."""
    metric: str | None = None
    """What decides; by the task where it is not given."""
    season: Annotated[int, msgspec.Meta(ge=1)] | None = None
    resamples: Annotated[int, msgspec.Meta(ge=20, le=10_000)] = intervals.RESAMPLES
    certain: bool = False
    """Win only if the whole interval of the difference is above zero."""

    def run(
        self,
        model: models.Model,
        table: values.Table,
        train: values.Table | None,
        context: kit.Context,
    ) -> values.Metrics:
        """Score both on the same rows; `win` is 1 where the challenger is better than both.

        `train` gives the baseline its history, as in `evaluate.holdout`.
        """
        found = predictions.predict(model, table)
        metric = self._metric(found.task)
        card = model.card
        history = None if train is None else predictions.target(train, card.target, card.task)
        name, naive = baselines.naive(found, history, self.season)
        plain = predictions.Predictions(found.task, found.actual, naive, None, found.classes)
        rivals = {"baseline": plain}
        champion = champions.champion(context.services.tracking_uri, self.name)
        if champion is not None:
            rivals["champion"] = predictions.predict(champion.model, table)
        measured = {"challenger": _score(metric, found)}
        details: dict[str, Any] = {
            "task": found.task,
            "metric": metric,
            "baseline": {"name": name, "values": {metric: _score(metric, plain)}},
            "champion": champion.version if champion else None,
            "intervals": {},
        }
        for rival, theirs in rivals.items():
            measured[rival] = _score(metric, theirs)
            low, high = self._difference(metric, found, theirs, context.seed)
            difference = scores.oriented(metric, measured["challenger"] - measured[rival])
            measured[f"better_than_{rival}_by"] = difference
            details["intervals"][f"better_than_{rival}_by"] = [low, high]
            measured[f"beats_{rival}"] = float((low if self.certain else difference) > 0)
        measured["win"] = min(measured[f"beats_{rival}"] for rival in rivals)
        return values.Metrics(measured, details)

    def _metric(self, task: str) -> str:
        metric = self.metric or scores.DEFAULTS[task]
        if metric not in scores.names(task) or metric in scores.NEEDS_PROBABILITIES:
            usable = [n for n in scores.names(task) if n not in scores.NEEDS_PROBABILITIES]
            msg = f"{metric!r} cannot be compared for a {task}"
            raise kit.NotAllowed(msg, path="$.metric", hint=f"take one of {', '.join(usable)}")
        return metric

    def _difference(
        self,
        metric: str,
        ours: predictions.Predictions,
        theirs: predictions.Predictions,
        seed: int,
    ) -> list[float]:
        """Resample rows, the same for both: a paired bootstrap (Efron and Tibshirani, 1993)."""

        def measure(rows: Any) -> dict[str, float]:
            difference = _score(metric, ours, rows) - _score(metric, theirs, rows)
            return {"difference": scores.oriented(metric, difference)}

        found = intervals.bootstrap(measure, len(ours.actual), seed, self.resamples)
        return found["difference"]


def _score(metric: str, found: predictions.Predictions, rows: Any = None) -> float:
    actual = found.actual if rows is None else found.actual[rows]
    predicted = found.predicted if rows is None else found.predicted[rows]
    return scores.compute(metric, actual, predicted, None, found.classes)
