"""Owns what the tests of artifacts share: a value of each kind, a hand on the stored bytes."""

from __future__ import annotations

import os
import time

import fsspec
import pyarrow as pa

from agent.artifacts import inline
from stages import models, values

CARD = models.ModelCard("sklearn", "Ridge", "regression", "y", [models.Column("x", "double")])
KINDS = {
    "features": lambda: values.FeaturePlan([values.FeatureStep("onehot", ["x"], {"min": 2}, "so")]),
    "list": lambda: values.Items([1, "two", {"three": None}]),
    "metrics": lambda: values.Metrics({"mae": 0.5}, {"curve": [1, 2]}),
    "model": lambda: models.Model(CARD, b"\x00weights"),
    "report": lambda: values.Report({"title": "ä"}),
    "table": lambda: values.Table(pa.table({"x": [1, None], "y": ["a", "b"]})),
    "text": lambda: values.Text("<p>ä</p>"),
}


PADDING = "x" * inline.MOST_BYTES


def report(number=0):
    """Give a document that is too large to travel in its reference."""
    return values.Report({"number": number, "padding": PADDING})


def blob(ref):
    """Give the file system and the path where a stored artifact lies."""
    return fsspec.core.url_to_fs(ref.uri)


def spoil(ref, how):
    """Damage a stored artifact."""
    files, path = blob(ref)
    data = files.cat_file(path)
    match how:
        case "corrupted":
            files.pipe_file(path, bytes([data[0] ^ 1]) + data[1:])
        case "truncated":
            files.pipe_file(path, data[:-1])
        case "missing":
            files.rm_file(path)


def age(path, seconds):
    """Make a file of this machine older than it is."""
    then = time.time() - seconds
    os.utime(path, (then, then))
