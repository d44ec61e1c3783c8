"""Owns which image networks there are: by name, never by import path; and what each expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from stages.frameworks import faults, packaged

if TYPE_CHECKING:
    from torch import nn


class Network(NamedTuple):
    """How a network is made, what its last layer is called, what its pixels are scaled by."""

    build: Callable[[int, int], nn.Module]
    """From the number of classes and the side of the images."""
    head: str
    mean: float
    """Of pixels from 0 to 255, as the pretrained weights expect them."""
    scale: float
    smallest: int
    """Side of an image, in pixels."""
    has_weights: bool


def _small(classes: int, side: int) -> nn.Module:  # noqa: ARG001 - it takes any side
    """Make three convolutions, for small images and few classes: 94,000 parameters and the head."""
    from torch import nn

    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
    return nn.Sequential(body, nn.Linear(128, classes))


def _efficientnet(classes: int, side: int) -> nn.Module:
    try:
        import efficientnet_lite_pytorch as lite
    except ImportError as error:
        raise faults.Missing("efficientnet-lite-pytorch", "images") from error
    made: nn.Module = lite.EfficientNet.from_name(
        "efficientnet-lite0", num_classes=classes, image_size=side
    )
    return made


NETWORKS = {
    "small-cnn": Network(_small, "1", 127.5, 127.5, 16, has_weights=False),
    "efficientnet-lite0": Network(_efficientnet, "_fc", 127.0, 128.0, 32, has_weights=True),
}


def named(name: str) -> Network:
    """Look a network up. Raises faults.UnknownName."""
    try:
        return NETWORKS[name]
    except KeyError:
        raise faults.UnknownName("image network", name, NETWORKS, "$.model") from None


def body(name: str, network: Any) -> list[Any]:
    """List the parts of a network that are not its head."""
    head = named(name).head
    return [part for called, part in network.named_children() if called != head]


def transfer(name: str, network: Any) -> None:
    """Give a network pretrained weights, but for its head: that is for other classes."""
    import torch

    head = f"{named(name).head}."
    read = packaged.tensors(packaged.layout(name))
    known = {key: torch.from_numpy(array) for key, array in read.items()}
    own = network.state_dict()
    own |= {key: tensor for key, tensor in known.items() if not key.startswith(head)}
    network.load_state_dict(own)
