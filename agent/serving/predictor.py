"""Owns the one place where a deployed model predicts: rows of requests in, what it says out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.bus import endpoints
from agent.serving import inputs
from protocol import problems, serving
from stages import models, values
from stages.evaluate import predictions, scores


class CannotPredict(endpoints.Refusal):
    """The model does not take these rows, though each value is of its type."""

    def __init__(self, reason: str) -> None:
        message = f"the model cannot predict these rows: {reason[:500]}"
        hint = "it may take no missing values"
        super().__init__(problems.Problem("data_fault", message, path="$", hint=hint))


class NoProbabilities(endpoints.Refusal):
    """The model gives no probabilities."""

    def __init__(self) -> None:
        message = "this model gives no probabilities"
        super().__init__(problems.Problem("not_allowed", message, path="$.probabilities"))


class Predictor:
    """A model in memory, ready to answer."""

    def __init__(self, model: models.Model, max_rows: int = inputs.MAX_ROWS) -> None:
        self.card = model.card
        self.inputs = inputs.Inputs(model.card.columns, max_rows)
        self._estimator: Any = model.estimator()
        self._probable = bool(self.card.classes) and hasattr(self._estimator, "predict_proba")

    def predict(self, asked: Sequence[inputs.Asked]) -> list[serving.Predicted]:
        """Answer several requests with one look at the model; raise a Refusal for them all."""
        probable = any(one.probabilities for one in asked)
        if probable and not self._probable:
            raise NoProbabilities
        frame = inputs.frame(asked)
        try:
            said = self._estimator.predict(frame).tolist()
            likely = self._likely(frame) if probable else None
        except (ValueError, TypeError) as error:
            raise CannotPredict(str(error)) from error
        return list(self._shared(asked, said, likely))

    def score(self, table: values.Table, metric: str) -> float:
        """Compute a metric on rows that hold the target."""
        found = predictions.said(self.card, self._estimator, table)
        return scores.compute(metric, found.actual, found.predicted, classes=found.classes)

    def _likely(self, frame: Any) -> list[list[float]]:
        order = [self._estimator.classes_.tolist().index(label) for label in self.card.classes]
        return self._estimator.predict_proba(frame)[:, order].tolist()

    def _shared(
        self, asked: Sequence[inputs.Asked], said: list[Any], likely: list[list[float]] | None
    ) -> list[serving.Predicted]:
        """Give each request its part."""
        parts, start = [], 0
        for one in asked:
            part = slice(start, start + one.table.num_rows)
            start = part.stop
            if one.probabilities and likely is not None:
                told = serving.Predicted(said[part], likely[part], self.card.classes)
            else:
                told = serving.Predicted(said[part])
            parts.append(told)
        return parts
