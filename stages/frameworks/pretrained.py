"""Owns pretrained weights that a package of the registry ships as a `.pth` file: never unpickled.

The digest of the file is known, and so where in it each tensor lies: the bytes there are read, and
nothing else of it. `scripts/lay_out_weights.py` writes those places down.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib
from typing import Any

import msgspec

from stages.frameworks import faults


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor lies: offset and strides in bytes."""

    offset: int
    type: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Layout(msgspec.Struct, frozen=True):
    """Which file of which package holds weights, and where in it each tensor is."""

    distribution: str
    version: str
    path: str
    sha256: str
    tensors: dict[str, Place]

    @property
    def source(self) -> str:
        """Name the package and its version."""
        return f"{self.distribution} {self.version}"


def layout(network: str) -> Layout:
    """Read the layout of a network's weights."""
    path = pathlib.Path(__file__).with_name(f"{network}.json")
    return msgspec.json.decode(path.read_bytes(), type=Layout)


def read(network: str) -> dict[str, Any]:
    """Give a network's tensors as NumPy arrays. Raises faults.Missing or faults.ForeignWeights."""
    return tensors(layout(network))


def tensors(found: Layout) -> dict[str, Any]:
    """Read the tensors of a layout, once the file's digest is seen to be right."""
    import numpy as np

    try:
        package = importlib.metadata.distribution(found.distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise faults.Missing(found.distribution, "images") from error
    raw = pathlib.Path(str(package.locate_file(found.path))).read_bytes()
    if hashlib.sha256(raw).hexdigest() != found.sha256:
        raise faults.ForeignWeights(found.source)
    return {
        name: np.ndarray(
            each.shape, each.type, buffer=raw, offset=each.offset, strides=each.strides
        ).copy()
        for name, each in found.tensors.items()
    }
