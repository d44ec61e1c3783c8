"""Owns the template for images: which class a picture shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agent.templates import base, profiles
from protocol import pipelines

IMAGE, LABEL = "image", "label"


class ImageClassification(base.Template, frozen=True, kw_only=True):
    """Tell which class an image shows, by transfer learning.

    An image that is there twice, byte for byte, is used once: it could be on both sides of the
    split.
    """

    uri: str
    """A local folder with a sub-folder per class, or a CSV file with the columns path and label."""
    name: base.Name = "images"
    """Of the pipeline and the registered model."""
    network: str = "efficientnet-lite0"
    """Or `small-cnn`, for small images and few classes."""
    pretrained: bool = True
    image_size: Annotated[int, msgspec.Meta(ge=16, le=1024)] = 128
    """Side of the square that each image is brought to, in pixels."""
    epochs: base.Positive = 10
    batch_size: Annotated[int, msgspec.Meta(ge=4)] = 32
    flip: bool = False
    """Whether an image mirrored left for right still shows its class."""
    learning_rates: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)] = (1e-3,)
    """Each is tried; the best epoch of the best one is the model."""
    on_bad: Literal["fail", "quarantine"] = "fail"
    """Whether an image that can't be used fails the run or is put aside, up to a share of 5 %."""
    test_fraction: base.Fraction = 0.2
    metric: str = "f1_macro"
    folds: base.Positive = 5
    """One part in so many of the training rows is for validation."""

    def source(self) -> pipelines.Stage:
        """Read the images."""
        return base.stage("load", "ingest.images", uri=self.uri, on_bad=self.on_bad)

    def design(self, profile: profiles.Profile) -> pipelines.Pipeline:
        """Deduplicate, split, train a network, judge, register."""
        base.required(profile, {"uri": LABEL})
        stages = [
            *base.chained([self.source(), *self._cleaning()]),
            base.stage("profile", "quality.profile", inputs={"table": "split.train"}),
            self._training(),
            *base.ending(self.name, f"{self.name}: what an image shows", self.metric),
        ]
        return pipelines.Pipeline(
            name=self.name, stages=stages, description="classes of images, by transfer learning"
        )

    def _cleaning(self) -> list[pipelines.Stage]:
        fraction = self.test_fraction
        return [
            base.stage("distinct", "prepare.deduplicate", columns=[IMAGE]),
            base.stage("split", "prepare.split", target=LABEL, test_fraction=fraction),
        ]

    def _training(self) -> pipelines.Stage:
        return base.stage(
            "train",
            "train.model",
            framework="torch-images",
            model=self.network,
            target=LABEL,
            task="classification",
            metric=self.metric,
            params=self._params(),
            search=self._search(),
            validation={"folds": max(2, self.folds)},
            inputs={"train": "split.train"},
        )

    def _params(self) -> dict[str, Any]:
        return {
            "pretrained": self.pretrained,
            "image_size": self.image_size,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "vary": {"flip": self.flip},
        }

    def _search(self) -> dict[str, Any]:
        space = {"learning_rate": list(self.learning_rates)}
        return {"strategy": "grid", "space": space, "parallel": 1}
