"""Owns what every PyTorch classifier is as a framework: one column in, the best epoch out."""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from stages import cards
from stages.frameworks import base, epochs, exports, faults, tables, torch_learner

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTED_AT_ONCE = 64
Classes = Annotated[list[str | int | bool], msgspec.Meta(min_length=2)]


class Settings(torch_learner.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `params` of a training may say, whatever the column holds."""

    pretrained: bool = True
    """Start from the weights that a package ships, where the network has some."""
    column: str
    """The column that is learned from."""


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What a card says, for the network to be made again."""

    column: str
    weights: str = ""
    """The package whose weights it began with."""


class TorchClassifier(base.Framework):
    """Trains a network on one column."""

    payload = "model.safetensors"
    settings: ClassVar[type[Settings]]
    details: ClassVar[type[Details]]

    @abc.abstractmethod
    def require(self, model: str) -> None:
        """Raise faults.UnknownName unless there is a network of this name."""

    @abc.abstractmethod
    def check(self, model: str, settings: Any, column: pa.ChunkedArray, names: list[str]) -> None:
        """Check the column; `names` are what its rows are called. Raises a kit.StageFault."""

    @abc.abstractmethod
    def build(self, model: str, classes: int, details: Any) -> Any:
        """Make a network with random weights."""

    @abc.abstractmethod
    def weights(self, model: str) -> str:
        """Name the package whose weights a network can begin with; nothing where there is none."""

    @abc.abstractmethod
    def begin(self, model: str, network: Any) -> None:
        """Give a network those weights, but for its head: that is for other classes."""

    @abc.abstractmethod
    def body(self, model: str, network: Any) -> list[Any]:
        """List what of a pretrained network is frozen at first."""

    @abc.abstractmethod
    def inputs(
        self, model: str, details: Any, column: pa.ChunkedArray, settings: Any
    ) -> torch_learner.Inputs:
        """Give a column's rows as the network takes them; `settings` is None where none is trained.

        Raises a kit.StageFault for what can't be read.
        """

    def natural_task(self, model: str) -> base.Task:
        """Say that every network classifies."""
        self.require(model)
        return "classification"

    def prepare(self, lesson: base.Lesson, table: pa.Table, plan: bytes | None) -> base.Setup:
        """Check the table and every row of the column, and make the network once."""
        if plan is not None:
            msg = f"{self.names[0]} learns from a column as it is, without a feature plan"
            raise faults.BadRequest(msg, path="$.features")
        settings = epochs.settings(lesson, lesson.samples, self.settings)
        facts = tables.check(self, lesson, table, only=settings.column)
        self.check(lesson.model, settings, table[settings.column], _names(table))
        setup = base.Setup(lesson, facts, base.metric_of(lesson, facts.task))
        epochs.parts(setup, table)
        self._network(setup, settings)
        return setup

    def score(
        self,
        setup: base.Setup,
        table: pa.Table,
        params: dict[str, Any],
        *,
        floor: float | None,  # noqa: ARG002 - early stopping cuts a hopeless one short
        checkpoint: bytes | None,
    ) -> Iterator[base.Step | base.Verdict]:
        """Train one candidate."""
        import torch

        lesson = setup.lesson
        settings = epochs.settings(lesson, params, self.settings)
        torch.set_num_threads(max(1, int(lesson.cpu)))
        torch.manual_seed(lesson.seed)
        network, details = self._network(setup, settings)
        parts = epochs.parts(setup, table)
        learner = torch_learner.Learner(
            network,
            self.inputs(lesson.model, details, table[settings.column], settings),
            parts,
            body=self.body(lesson.model, network) if details.weights else [],
            settings=settings,
            seed=lesson.seed,
        )
        actual = parts.codes[parts.validation]
        yield from epochs.run(learner, settings, setup, actual, checkpoint)

    def _network(self, setup: base.Setup, settings: Settings) -> tuple[Any, Details]:
        model, details = setup.lesson.model, self._details(setup.lesson.model, settings)
        network = self.build(model, len(setup.facts.classes), details)
        if details.weights:
            self.begin(model, network)
        return network.to(torch_learner.device()), details

    def _details(self, model: str, settings: Settings) -> Details:
        weights = self.weights(model) if settings.pretrained else ""
        found = msgspec.convert(settings, self.details, from_attributes=True)
        return msgspec.structs.replace(found, weights=weights)

    def fit(
        self, setup: base.Setup, table: pa.Table, params: dict[str, Any], checkpoint: bytes | None
    ) -> base.Fitted:
        """Take the best epoch."""
        settings = epochs.settings(setup.lesson, params, self.settings)
        details = self._details(setup.lesson.model, settings)

        def score() -> Iterator[base.Step | base.Verdict]:
            return self.score(setup, table, params, floor=None, checkpoint=None)

        return epochs.fitted(score, checkpoint, msgspec.to_builtins(details))

    def load(self, card: cards.ModelCard, payload: bytes) -> base.Predictor:
        """Make the network and give it its weights."""
        import safetensors
        import safetensors.torch

        try:
            details = msgspec.convert(card.details, self.details)
            classes = msgspec.convert(card.classes, Classes)
            network = self.build(card.estimator, len(classes), details)
            network.load_state_dict(safetensors.torch.load(payload))
        except (msgspec.ValidationError, faults.UnknownName) as error:
            raise cards.UntrustedModel(f"its card does not describe a network ({error})") from error
        except (safetensors.SafetensorError, RuntimeError, ValueError) as error:
            reason = f"its weights are not a safetensors file of {card.estimator} ({error})"
            raise cards.UntrustedModel(reason) from error
        return Predictor(self, network.to(torch_learner.device()).eval(), card, details)

    def export(
        self, card: cards.ModelCard, payload: bytes, path: pathlib.Path, signature: Any
    ) -> None:
        """Write the weights as they are: MLflow's own flavour of PyTorch would pickle."""
        exports.plain(card, payload, path, signature, self.payload)


class Predictor:
    """A loaded network, in scikit-learn's words."""

    def __init__(
        self, framework: TorchClassifier, network: Any, card: cards.ModelCard, details: Details
    ) -> None:
        import numpy as np

        self._framework = framework
        self._network = network
        self._model = card.estimator
        self._details = details
        kind = None if isinstance(card.classes[0], (int, bool)) else object
        self.classes_ = np.array(card.classes, dtype=kind)

    def predict(self, frame: Any) -> Any:
        """Give the class of each row. Raises a kit.StageFault for what can't be read."""
        return self.classes_[self.predict_proba(frame).argmax(axis=1)]

    def predict_proba(self, frame: Any) -> Any:
        """Give the probability of each class for each row."""
        import numpy as np
        import pyarrow as pa

        column = pa.chunked_array([pa.array(frame[self._details.column], from_pandas=True)])
        inputs = self._framework.inputs(self._model, self._details, column, None)
        rows = np.arange(len(column))
        return torch_learner.probabilities(self._network, inputs, rows, PREDICTED_AT_ONCE)

    def fit(self, *_: Any) -> None:
        """Refuse: scikit-learn asks for this where it only predicts."""
        raise faults.NoRefit(self._framework.names[0])


def _names(table: pa.Table) -> list[str]:
    """Call rows by their path, where there is one, or else by number."""
    if "path" in table.column_names:
        return [repr(path) for path in table["path"].to_pylist()]
    return [f"row {row}" for row in range(table.num_rows)]
