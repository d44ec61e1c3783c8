"""Owns what counts as an image: encoded bytes that decode whole, within bounds, in a known mode."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

Mode = Literal["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]

FORMATS = ("PNG", "JPEG")
MOST_PIXELS = 80_000_000
"""Below the number at which Pillow begins to warn of a decompression bomb."""
_CHANNELS = {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What Pillow's readers of PNG and JPEG raise for bytes that are not what they claim to be."""


class BadImage(Exception):
    """Bytes are not an image that can be used; the reason says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check(raw: bytes, modes: Sequence[Mode], most_pixels: int) -> None:
    """Decode an image; raise BadImage. Its size and mode are judged before it is unpacked."""
    with _opened(raw, modes, most_pixels) as image:
        image.load()


def square(raw: bytes, side: int, modes: Sequence[Mode], most_pixels: int) -> Any:
    """Decode an image, upright and in colour, to bytes of shape (3, side, side); raise BadImage."""
    import numpy as np
    from PIL import Image, ImageOps

    with _opened(raw, modes, most_pixels) as image:
        image.load()
        upright = ImageOps.exif_transpose(image).convert("RGB")
        resized = upright.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1)


@contextlib.contextmanager
def _opened(raw: bytes, modes: Sequence[Mode], most_pixels: int) -> Iterator[Any]:
    from PIL import Image

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
            _check_header(image.size, image.mode, modes, most_pixels)
            yield image
    except bombs as error:
        raise _too_large(most_pixels) from error
    except Image.UnidentifiedImageError as error:
        msg = "it is neither PNG nor JPEG"
        raise BadImage(msg) from error
    except _BROKEN as error:
        msg = f"it can't be decoded: {error}"
        raise BadImage(msg) from error


def _check_header(
    size: tuple[int, int], mode: str, modes: Sequence[Mode], most_pixels: int
) -> None:
    if size[0] * size[1] > most_pixels:
        raise _too_large(most_pixels)
    if mode not in modes:
        channels = _CHANNELS.get(mode, 1)
        msg = f"its mode is {mode} ({channels} channels), and {' or '.join(modes)} is wanted"
        raise BadImage(msg)


def _too_large(most_pixels: int) -> BadImage:
    return BadImage(f"it has more than {most_pixels} pixels")
