"""Owns files that a package of the registry ships: known by digest, and weights never unpickled.

Of a `.pth` file, which is a pickle, it is known where each tensor lies: the bytes there are read,
and nothing else of it. `scripts/lay_out_weights.py` writes those places down.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib
from typing import Any

import msgspec

from stages.frameworks import faults


class File(msgspec.Struct, frozen=True):
    """A file of a package, and the extra of ours that installs it."""

    distribution: str
    version: str
    path: str
    sha256: str
    extra: str

    @property
    def source(self) -> str:
        """Name the package and its version."""
        return f"{self.distribution} {self.version}"


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor lies: offset and strides in bytes."""

    offset: int
    type: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Layout(msgspec.Struct, frozen=True):
    """A file of weights, and where in it each tensor is."""

    file: File
    tensors: dict[str, Place]


def read(file: File) -> bytes:
    """Give a file's content. Raises faults.Missing or faults.ForeignWeights."""
    try:
        package = importlib.metadata.distribution(file.distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise faults.Missing(file.distribution, file.extra) from error
    raw = pathlib.Path(str(package.locate_file(file.path))).read_bytes()
    if hashlib.sha256(raw).hexdigest() != file.sha256:
        raise faults.ForeignWeights(file.source)
    return raw


def layout(network: str) -> Layout:
    """Read the layout of a network's weights."""
    path = pathlib.Path(__file__).with_name(f"{network}.json")
    return msgspec.json.decode(path.read_bytes(), type=Layout)


def tensors(found: Layout) -> dict[str, Any]:
    """Give the tensors of a layout as NumPy arrays. Raises as `read` does."""
    import numpy as np

    raw = read(found.file)
    return {
        name: np.ndarray(
            each.shape, each.type, buffer=raw, offset=each.offset, strides=each.strides
        ).copy()
        for name, each in found.tensors.items()
    }
