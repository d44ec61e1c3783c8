"""Owns what must be known of a model file before it is opened: its card, and why it is refused."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import msgspec


class UntrustedModel(Exception):
    """The model file holds types that are not trusted, or is not a model file at all."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model file is refused: {reason}")


class Column(msgspec.Struct, frozen=True):
    """A column the model expects: name and Arrow type."""

    name: str
    type: str


class ModelCard(msgspec.Struct, frozen=True):
    """What must be known to use the model: what it takes, what it predicts, what made it."""

    framework: str
    estimator: str
    task: str
    """`classification`, `regression` or `forecast`."""
    target: str
    columns: list[Column]
    classes: list[Any] = []
    params: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    libraries: dict[str, str] = {}
    """Versions it was trained with; another major one of its framework is refused at load time."""
    seed: int = 0
    details: dict[str, Any] = {}
    """What its framework must know to load it, as the size of images."""
    digest: str = ""
    """SHA-256 of the weights; files of before it was written have none."""


def library_versions(*names: str) -> dict[str, str]:
    """Look up the installed versions of distributions."""
    return {name: importlib.metadata.version(name) for name in names}
