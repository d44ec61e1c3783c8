"""Owns the demo's images: handwritten digits, as scikit-learn ships them, a folder for each."""

from __future__ import annotations

import pathlib

from agent.demo import once

COUNT = 700
"""Of 1,797: enough to show what pretrained weights are worth."""
SIDE = 64
_BRIGHTEST = 16


def write(folder: pathlib.Path) -> pathlib.Path:
    """Write `digits/<digit>/<number>.png`, unless they are there already."""
    target = folder / "digits"
    return once.made(target, [COUNT, SIDE], lambda: _draw(target))


def _draw(target: pathlib.Path) -> None:
    from PIL import Image
    from sklearn import datasets

    digits = datasets.load_digits()
    for number in range(COUNT):
        place = target / str(digits.target[number])
        place.mkdir(parents=True, exist_ok=True)
        shades = (digits.images[number] * (255 / _BRIGHTEST)).astype("uint8")
        picture = Image.fromarray(shades).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        picture.save(place / f"{number}.png")
