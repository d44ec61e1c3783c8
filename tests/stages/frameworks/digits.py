"""Owns small tables of real images for tests: scikit-learn's handwritten digits as PNG."""

from __future__ import annotations

import io

import pyarrow as pa
from PIL import Image
from sklearn import datasets

from stages import values

DIGITS = datasets.load_digits()


def png(number: int, side: int = 32, mode: str = "L") -> bytes:
    picture = Image.fromarray((DIGITS.images[number] * 15).astype("uint8"))
    sink = io.BytesIO()
    picture.resize((side, side), Image.Resampling.BILINEAR).convert(mode).save(sink, "PNG")
    return sink.getvalue()


def table(rows: range, *, classes: int = 3, side: int = 32) -> values.Table:
    """Give the digits below `classes` among these numbers of the set."""
    taken = [n for n in rows if DIGITS.target[n] < classes]
    columns = {
        "image": pa.array([png(n, side) for n in taken], pa.binary()),
        "label": [f"digit {DIGITS.target[n]}" for n in taken],
        "path": [f"{n}.png" for n in taken],
    }
    return values.Table(pa.table(columns))
