"""Owns what the demo can show: of each topic the real data, and the requests made of it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agent.demo import findings, pictures, prose, series

USUAL = ("forecast", "findings")
ALL = "all"
PRETRAINED, RANDOM = "digits", "digits-from-random-weights"


class Order(msgspec.Struct, frozen=True):
    """One request of the demo, and the metric by which it is judged."""

    template: str
    params: dict[str, Any]
    metric: str

    @property
    def deployed(self) -> bool:
        """Tell whether the model is to answer in the end."""
        return bool(self.params.get("deploy"))


class Topic(msgspec.Struct, frozen=True):
    """What is shown."""

    about: str
    orders: Callable[[pathlib.Path], list[Order]]
    """Makes the data in a folder, which may take seconds, and gives the requests."""


def chosen(name: str) -> Sequence[str]:
    """Name the topics that a word of the command line means; raises KeyError."""
    if name == ALL:
        return tuple(TOPICS)
    if name and name not in TOPICS:
        raise KeyError(name)
    return (name,) if name else USUAL


def _forecast(folder: pathlib.Path) -> list[Order]:
    params = {"uri": series.write(folder).as_uri(), "name": "co2-forecast"}
    params |= {"time": "week", "target": "co2_ppm"}
    return [Order("time-series-forecast", params | {"horizon": 13, "season": 52}, "mae")]


def _findings(folder: pathlib.Path) -> list[Order]:
    params = {"uri": findings.write(folder).as_uri(), "name": "finding-triage", "deploy": True}
    return [Order("finding-triage", params, "f1_macro")]


def _image(folder: pathlib.Path) -> list[Order]:
    """Train the same network twice: from pretrained weights, and from random ones."""
    params: dict[str, Any] = {
        "uri": pictures.write(folder).as_uri(),
        "image_size": pictures.SIDE,
        "epochs": 3,
        "batch_size": 16,
        "learning_rates": [2e-3],
        "metric": "accuracy",
    }
    pretrained = params | {"name": PRETRAINED, "deploy": True}
    random = params | {"name": RANDOM, "pretrained": False}
    return [Order("image-classification", each, "accuracy") for each in (pretrained, random)]


def _text(folder: pathlib.Path) -> list[Order]:
    params: dict[str, Any] = {"uri": prose.write(folder).as_uri(), "name": "whose-words"}
    params |= {"target": "library", "epochs": 2, "batch_size": 16, "max_length": 64, "deploy": True}
    return [Order("text-classification", params, "f1_macro")]


TOPICS = {
    "forecast": Topic("a series from statsmodels", _forecast),
    "findings": Topic("findings of bandit on installed packages", _findings),
    "image": Topic("handwritten digits from scikit-learn", _image),
    "text": Topic("what installed libraries say of themselves", _text),
}
