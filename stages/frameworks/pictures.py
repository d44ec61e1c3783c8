"""Owns how rows of encoded images become batches of pixels, and how training varies those."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stages import images
from stages.frameworks import faults

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

MODES: tuple[images.Mode, ...] = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
"""All that have a meaning in colour; ingest.images decides which are wanted."""
KEPT_BYTES = 2**30
"""Decoded images are kept up to here; more are decoded again in each epoch."""


class Variation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much an image may differ each time it is seen in training."""

    flip: bool = False
    """Left for right, half of the time; not where that changes what is shown, as in digits."""
    crop: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    """Share of the side that may be cut away, and how far the rest may be off the middle."""
    rotate: Annotated[float, msgspec.Meta(ge=0, le=180)] = 10.0
    """Degrees to either side."""


class Pictures:
    """A column of encoded images, as squares of pixels: bytes of shape (rows, 3, side, side)."""

    def __init__(self, column: pa.ChunkedArray, name: str, side: int) -> None:
        self._column = column
        self._name = name
        self._side = side
        self._kept: dict[int, Any] | None = {}
        if len(column) * 3 * side * side > KEPT_BYTES:
            self._kept = None

    def batch(self, rows: Any) -> torch.Tensor:
        """Give these rows' pixels. Raises faults.BadImages."""
        import numpy as np
        import torch

        return torch.from_numpy(np.stack([self._pixels(int(row)) for row in rows]))

    def _pixels(self, row: int) -> Any:
        if self._kept is not None and row in self._kept:
            return self._kept[row]
        try:
            found = images.square(
                self._column[row].as_py() or b"", self._side, MODES, images.MOST_PIXELS
            )
        except images.BadImage as error:
            raise faults.BadImages(self._name, [(f"row {row}", error.reason)]) from error
        if self._kept is not None:
            self._kept[row] = found
        return found


def check(column: pa.ChunkedArray, name: str, rows: list[str]) -> None:
    """Decode every image of a column. Raises faults.BadImages, which names those that are bad."""
    if bad := list(_bad(column, rows)):
        raise faults.BadImages(name, bad)


def _bad(column: pa.ChunkedArray, rows: list[str]) -> Iterator[tuple[str, str]]:
    for row, raw in zip(rows, column, strict=True):
        try:
            images.check(raw.as_py() or b"", MODES, images.MOST_PIXELS)
        except images.BadImage as error:
            yield row, error.reason


def vary(
    pixels: torch.Tensor, variation: Variation, generator: torch.Generator | None
) -> torch.Tensor:
    """Rotate, cut and flip each image of a batch of floats by chance, in one resampling."""
    import torch
    from torch.nn import functional

    if variation == Variation(flip=False, crop=0.0, rotate=0.0):
        return pixels
    turn, size, right, down, mirror = torch.rand(5, len(pixels), generator=generator)
    angle = (2 * turn - 1) * variation.rotate * torch.pi / 180
    scale = 1 - size * variation.crop
    side = (mirror - 0.5).sign() if variation.flip else torch.ones_like(mirror)
    rows = [
        torch.stack(
            [scale * angle.cos() * side, -scale * angle.sin(), (2 * right - 1) * (1 - scale)]
        ),
        torch.stack(
            [scale * angle.sin() * side, scale * angle.cos(), (2 * down - 1) * (1 - scale)]
        ),
    ]
    matrices = torch.stack(rows).permute(2, 0, 1)
    grid = functional.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return functional.grid_sample(
        pixels, grid.to(pixels.device), padding_mode="border", align_corners=False
    )
