"""Owns image classification with PyTorch as a framework: transfer learning, judged on one split."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stages import cards
from stages.frameworks import (
    base,
    epochs,
    exports,
    faults,
    networks,
    pictures,
    pretrained,
    tables,
    torch_learner,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

PREDICTED_AT_ONCE = 64
Classes = Annotated[list[str | int | bool], msgspec.Meta(min_length=2)]


class Settings(torch_learner.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `params` of a training may say."""

    pretrained: bool = True
    """Start from the weights that a package ships, where the network has some."""
    image_size: Annotated[int, msgspec.Meta(ge=16, le=1024)] = 128
    """Side of the square that each image is brought to, in pixels."""
    column: str = "image"
    """The column of encoded images."""
    vary: pictures.Variation = pictures.Variation()


class Details(msgspec.Struct, frozen=True):
    """What a card says, for the network to be made again."""

    image_size: Annotated[int, msgspec.Meta(ge=16, le=1024)]
    column: str
    weights: str = ""
    """The package whose weights it began with."""


class TorchImages(base.Framework):
    """Trains a network on a column of encoded images; the best epoch is the model."""

    names = ("torch-images",)
    payload = "model.safetensors"
    libraries = ("torch", "numpy", "pillow", "safetensors")

    def natural_task(self, model: str) -> base.Task:
        """Say that every network classifies."""
        networks.named(model)
        return "classification"

    def prepare(self, lesson: base.Lesson, table: pa.Table, plan: bytes | None) -> base.Setup:
        """Check the table, decode every image, and make the network once."""
        if plan is not None:
            msg = "images are learned from as they are, without a feature plan"
            raise faults.BadRequest(msg, path="$.features")
        settings = epochs.settings(lesson, lesson.samples, Settings)
        facts = tables.check(self, lesson, table, only=settings.column)
        _check_column(table, settings.column)
        _check_network(lesson.model, settings)
        pictures.check(table, settings.column)
        setup = base.Setup(lesson, facts, base.metric_of(lesson, facts.task))
        epochs.parts(setup, table)
        _network(lesson.model, settings, len(facts.classes))
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
        settings = epochs.settings(lesson, params, Settings)
        torch.set_num_threads(max(1, int(lesson.cpu)))
        torch.manual_seed(lesson.seed)
        network = _network(lesson.model, settings, len(setup.facts.classes))
        shown = pictures.Pictures(table[settings.column], settings.image_size)
        scale = networks.named(lesson.model)

        def logits(rows: Any, generator: torch.Generator | None) -> torch.Tensor:
            pixels = _scaled(shown.batch(rows), scale)
            if generator is not None:
                pixels = pictures.vary(pixels, settings.vary, generator)
            found: torch.Tensor = network(pixels)
            return found

        parts = epochs.parts(setup, table)
        body = networks.body(lesson.model, network) if _begins_with(lesson.model, settings) else []
        learner = torch_learner.Learner(
            network, body, logits, parts, settings=settings, seed=lesson.seed
        )
        actual = parts.codes[parts.validation]
        yield from epochs.run(learner, settings, setup, actual, checkpoint)

    def fit(
        self, setup: base.Setup, table: pa.Table, params: dict[str, Any], checkpoint: bytes | None
    ) -> base.Fitted:
        """Take the best epoch."""
        settings = epochs.settings(setup.lesson, params, Settings)
        begun = _begins_with(setup.lesson.model, settings)
        weights = pretrained.layout(setup.lesson.model).source if begun else ""
        details = Details(settings.image_size, settings.column, weights)

        def score() -> Iterator[base.Step | base.Verdict]:
            return self.score(setup, table, params, floor=None, checkpoint=None)

        return epochs.fitted(score, checkpoint, msgspec.to_builtins(details))

    def load(self, card: cards.ModelCard, payload: bytes) -> base.Predictor:
        """Make the network and give it its weights."""
        import safetensors
        import safetensors.torch

        try:
            details = msgspec.convert(card.details, Details)
            classes = msgspec.convert(card.classes, Classes)
            network = networks.build(card.estimator, len(classes), details.image_size)
            network.load_state_dict(safetensors.torch.load(payload))
        except (msgspec.ValidationError, faults.UnknownName) as error:
            raise cards.UntrustedModel(f"its card does not describe a network ({error})") from error
        except (safetensors.SafetensorError, RuntimeError, ValueError) as error:
            reason = f"its weights are not a safetensors file of {card.estimator} ({error})"
            raise cards.UntrustedModel(reason) from error
        return Predictor(network.to(torch_learner.device()).eval(), card, details)

    def export(
        self, card: cards.ModelCard, payload: bytes, path: pathlib.Path, signature: Any
    ) -> None:
        """Write the weights as they are: MLflow's own flavour of PyTorch would pickle."""
        exports.plain(card, payload, path, signature, self.payload)


class Predictor:
    """A loaded network, in scikit-learn's words."""

    def __init__(self, network: Any, card: cards.ModelCard, details: Details) -> None:
        import numpy as np

        self._network = network
        self._scale = networks.named(card.estimator)
        self._details = details
        kind = None if isinstance(card.classes[0], (int, bool)) else object
        self.classes_ = np.array(card.classes, dtype=kind)

    def predict(self, frame: Any) -> Any:
        """Give the class of each row. Raises faults.BadImages."""
        return self.classes_[self.predict_proba(frame).argmax(axis=1)]

    def predict_proba(self, frame: Any) -> Any:
        """Give the probability of each class for each row. Raises faults.BadImages."""
        import numpy as np
        import pyarrow as pa

        column = pa.chunked_array([pa.array(frame[self._details.column], pa.binary())])
        shown = pictures.Pictures(column, self._details.image_size)
        parts = np.array_split(np.arange(len(column)), -(-len(column) // PREDICTED_AT_ONCE))
        return np.concatenate(
            [
                torch_learner.probabilities(lambda r, _: self._logits(shown.batch(r)), rows)
                for rows in parts
            ]
        )

    def _logits(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._network(_scaled(pixels, self._scale))
        return found

    def fit(self, *_: Any) -> None:
        """Refuse: scikit-learn asks for this where it only predicts."""
        raise faults.NoRefit(TorchImages.names[0])


def _begins_with(model: str, settings: Settings) -> bool:
    """Tell whether a network begins with pretrained weights."""
    return settings.pretrained and networks.named(model).has_weights


def _network(model: str, settings: Settings, classes: int) -> Any:
    network = networks.build(model, classes, settings.image_size)
    if _begins_with(model, settings):
        networks.transfer(model, network)
    return network.to(torch_learner.device())


def _scaled(pixels: torch.Tensor, network: networks.Network) -> torch.Tensor:
    return (pixels.to(torch_learner.device()).float() - network.mean) / network.scale


def _check_column(table: pa.Table, column: str) -> None:
    import pyarrow as pa

    kind = table.schema.field(column).type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        msg = f"the column {column!r} is {kind}, and encoded images are wanted"
        hint = "read them with ingest.images"
        raise faults.UnusableData(msg, path="$.params.column", hint=hint)


def _check_network(model: str, settings: Settings) -> None:
    smallest = networks.named(model).smallest
    if settings.image_size < smallest:
        msg = f"{model} needs images of {smallest} pixels a side, not {settings.image_size}"
        raise faults.BadRequest(msg, path="$.params.image_size")
