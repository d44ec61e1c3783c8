"""Owns text classification with transformers as a framework: fine-tuning of an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stages import columns
from stages.frameworks import faults, texts, torch_classifier, torch_learner

if TYPE_CHECKING:
    import pyarrow as pa

Length = Annotated[int, msgspec.Meta(ge=8, le=texts.LONGEST)]


class Settings(torch_classifier.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `params` of a training may say."""

    column: str = "text"
    max_length: Length = 128
    """Tokens of a row; the rest is cut off."""
    learning_rate: torch_learner.Rate = 5e-5
    freeze_epochs: torch_learner.Epochs = 0


class Details(torch_classifier.Details, frozen=True, kw_only=True):
    """What a card says of a network for texts."""

    max_length: Length


class TransformersText(torch_classifier.TorchClassifier):
    """Trains an encoder on a column of text."""

    names = ("transformers-text",)
    libraries = ("torch", "numpy", "safetensors", "tokenizers", "transformers")
    settings = Settings
    details = Details

    def require(self, model: str) -> None:
        """Raise faults.UnknownName unless there is a network of this name."""
        texts.named(model)

    def check(
        self,
        model: str,  # noqa: ARG002 - all take any text
        settings: Settings,
        column: pa.ChunkedArray,
        names: list[str],  # noqa: ARG002 - a gap has no better name than their number
    ) -> None:
        """Check that there is text in every row."""
        if columns.sort(column.type) != "text":
            msg = f"the column {settings.column!r} is {column.type}, and text is wanted"
            raise faults.UnusableData(msg, path="$.params.column")
        _require_whole(column, settings.column)

    def build(self, model: str, classes: int, details: Details) -> Any:  # noqa: ARG002
        """Make a network with random weights."""
        return texts.build(model, classes)

    def weights(self, model: str) -> str:
        """Name the package of the pretrained weights."""
        file = texts.named(model).weights
        return file.source if file else ""

    def begin(self, model: str, network: Any) -> None:
        """Give a network its pretrained weights."""
        texts.transfer(model, network)

    def body(self, model: str, network: Any) -> list[Any]:  # noqa: ARG002
        """List the encoder."""
        return [network.bert]

    def inputs(
        self,
        model: str,  # noqa: ARG002 - all read the same tokens
        details: Details,
        column: pa.ChunkedArray,
        settings: Settings | None,  # noqa: ARG002 - texts are not varied
    ) -> torch_learner.Inputs:
        """Give the texts as tokens."""
        _require_whole(column, details.column)
        return texts.Tokens(column, details.max_length)


def _require_whole(column: pa.ChunkedArray, name: str) -> None:
    if column.null_count:
        msg = f"the text {name!r} is missing in {column.null_count} rows"
        hint = "drop those rows with prepare.filter, or fill them with prepare.impute"
        raise faults.UnusableData(msg, hint=hint)
