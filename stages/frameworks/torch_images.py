"""Owns image classification with PyTorch as a framework: transfer learning on encoded images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stages.frameworks import (
    faults,
    networks,
    packaged,
    pictures,
    torch_classifier,
    torch_learner,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

Side = Annotated[int, msgspec.Meta(ge=16, le=1024)]


class Settings(torch_classifier.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `params` of a training may say."""

    column: str = "image"
    image_size: Side = 128
    """Side of the square that each image is brought to, in pixels."""
    vary: pictures.Variation = pictures.Variation()


class Details(torch_classifier.Details, frozen=True, kw_only=True):
    """What a card says of a network for images."""

    image_size: Side


class TorchImages(torch_classifier.TorchClassifier):
    """Trains a network on a column of encoded images."""

    names = ("torch-images",)
    libraries = ("torch", "numpy", "pillow", "safetensors")
    settings = Settings
    details = Details

    def require(self, model: str) -> None:
        """Raise faults.UnknownName unless there is a network of this name."""
        networks.named(model)

    def check(
        self, model: str, settings: Settings, column: pa.ChunkedArray, names: list[str]
    ) -> None:
        """Check that the network takes images of this size, and decode every one."""
        import pyarrow as pa

        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            msg = f"the column {settings.column!r} is {column.type}; encoded images are wanted"
            hint = "read them with ingest.images"
            raise faults.UnusableData(msg, path="$.params.column", hint=hint)
        smallest = networks.named(model).smallest
        if settings.image_size < smallest:
            msg = f"{model} needs images of {smallest} pixels a side, not {settings.image_size}"
            raise faults.BadRequest(msg, path="$.params.image_size")
        pictures.check(column, settings.column, names)

    def build(self, model: str, classes: int, details: Details) -> Any:
        """Make a network with random weights."""
        return networks.named(model).build(classes, details.image_size)

    def weights(self, model: str) -> str:
        """Name the package of the pretrained weights."""
        return packaged.layout(model).file.source if networks.named(model).has_weights else ""

    def begin(self, model: str, network: Any) -> None:
        """Give a network its pretrained weights."""
        networks.transfer(model, network)

    def body(self, model: str, network: Any) -> list[Any]:
        """List all but the head."""
        return networks.body(model, network)

    def inputs(
        self, model: str, details: Details, column: pa.ChunkedArray, settings: Settings | None
    ) -> torch_learner.Inputs:
        """Give the images as pixels."""
        shown = pictures.Pictures(column, details.column, details.image_size)
        return _Inputs(shown, networks.named(model), settings.vary if settings else None)


class _Inputs:
    """Images as floats, scaled as the network expects them, and varied in training."""

    lengths = None

    def __init__(
        self,
        shown: pictures.Pictures,
        network: networks.Network,
        variation: pictures.Variation | None,
    ) -> None:
        self._shown = shown
        self._network = network
        self._variation = variation

    def logits(
        self, network: torch.nn.Module, rows: Any, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Run the network on images."""
        pixels = self._shown.batch(rows).to(torch_learner.device()).float()
        pixels = (pixels - self._network.mean) / self._network.scale
        if generator is not None and self._variation is not None:
            pixels = pictures.vary(pixels, self._variation, generator)
        found: torch.Tensor = network(pixels)
        return found
