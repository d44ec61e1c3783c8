"""Owns the templates for what networks learn from: images and texts, by transfer learning."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agent.templates import base, profiles
from protocol import pipelines

IMAGE, LABEL = "image", "label"
Rates = Annotated[tuple[float, ...], msgspec.Meta(min_length=1)]


class Network(base.Template, frozen=True, kw_only=True):
    """What both templates ask for."""

    uri: base.Uris
    name: base.Name
    """Of the pipeline and the registered model."""
    network: str
    pretrained: bool = True
    epochs: base.Positive = 10
    """At most: it is stopped early without a better score."""
    batch_size: Annotated[int, msgspec.Meta(ge=4)] = 32
    learning_rates: Rates = (1e-3,)
    """Each is tried; the best epoch of the best one is the model."""
    test_fraction: base.Fraction = 0.2
    metric: str = "f1_macro"
    folds: base.Positive = 5
    """One part in so many of the training rows is for validation."""
    deploy: bool = False
    """Whether a model that is registered answers at once, at an endpoint of its name."""

    def _stages(
        self, cleaning: list[pipelines.Stage], training: pipelines.Stage, title: str
    ) -> list[pipelines.Stage]:
        return [
            *base.chained([self.source(), *cleaning]),
            base.stage("profile", "quality.profile", inputs={"table": "split.train"}),
            training,
            *base.ending(self.name, f"{self.name}: {title}", self.metric, deploy=self.deploy),
        ]

    def _training(
        self, framework: str, target: str, params: dict[str, Any], group: str | None = None
    ) -> pipelines.Stage:
        shared = {name: getattr(self, name) for name in ("pretrained", "epochs", "batch_size")}
        grouped = {"scheme": "group", "group": group} if group else {}
        return base.stage(
            "train",
            "train.model",
            framework=framework,
            model=self.network,
            target=target,
            task="classification",
            metric=self.metric,
            params=shared | params,
            search={
                "strategy": "grid",
                "space": {"learning_rate": list(self.learning_rates)},
                "parallel": 1,
            },
            validation={"folds": max(2, self.folds)} | grouped,
            inputs={"train": "split.train"},
        )


class Images(Network, frozen=True, kw_only=True):
    """Tell which class an image shows, by transfer learning.

    An image that is there twice, byte for byte, is used once: it could be on both sides of the
    split.
    """

    uri: str
    """A local folder with a sub-folder per class, or a CSV file with the columns path and label."""
    name: base.Name = "images"
    network: str = "efficientnet-lite0"
    """Or `small-cnn`, for small images and few classes."""
    image_size: Annotated[int, msgspec.Meta(ge=16, le=1024)] = 128
    """Side of the square that each image is brought to, in pixels."""
    flip: bool = False
    """Whether an image mirrored left for right still shows its class."""
    on_bad: Literal["fail", "quarantine"] = "fail"
    """Whether an image that can't be used fails the run or is put aside, up to a share of 5 %."""

    def source(self) -> pipelines.Stage:
        """Read the images."""
        return base.stage("load", "ingest.images", uri=self.uri, on_bad=self.on_bad)

    def design(self, profile: profiles.Profile) -> pipelines.Pipeline:
        """Deduplicate, split, train a network, judge, register."""
        base.required(profile, {"uri": LABEL})
        fraction = self.test_fraction
        cleaning = [
            base.stage("distinct", "prepare.deduplicate", columns=[IMAGE]),
            base.stage("split", "prepare.split", target=LABEL, test_fraction=fraction),
        ]
        params = {"image_size": self.image_size, "vary": {"flip": self.flip}}
        training = self._training("torch-images", LABEL, params)
        return pipelines.Pipeline(
            name=self.name,
            stages=self._stages(cleaning, training, "what an image shows"),
            description="classes of images, by transfer learning",
        )


class Texts(Network, frozen=True, kw_only=True):
    """Tell which class a text is of, by fine-tuning an encoder.

    A text that is there twice is used once: it could be on both sides of the split.
    """

    uri: base.Uris
    """The table: CSV, Parquet, JSON Lines or Arrow; several are a primary and its backups."""
    target: str
    text: str = "text"
    """The column that is read."""
    name: base.Name = "texts"
    network: str = "minilm-l6"
    epochs: base.Positive = 4
    learning_rates: Rates = (5e-5,)
    max_length: Annotated[int, msgspec.Meta(ge=8, le=512)] = 128
    """Tokens of a text; the rest is cut off."""
    group: str | None = None
    """Rows that share this column's value stay on one side of the split and of the validation."""

    def source(self) -> pipelines.Stage:
        """Read the table."""
        return base.stage("load", "ingest.table", uri=self.uri)

    def design(self, profile: profiles.Profile) -> pipelines.Pipeline:
        """Drop gaps, deduplicate, split, fine-tune, judge, register."""
        wanted = {"target": self.target, "text": self.text, "group": self.group}
        base.required(profile, wanted)
        params = {"column": self.text, "max_length": self.max_length}
        training = self._training("transformers-text", self.target, params, self.group)
        return pipelines.Pipeline(
            name=self.name,
            stages=self._stages(self._cleaning(profile), training, self.target),
            description=f"{self.target} of {self.text}, by fine-tuning",
        )

    def _cleaning(self, profile: profiles.Profile) -> list[pipelines.Stage]:
        gaps = [name for name in (self.target, self.text) if profile.column(name).nulls > 0]
        where = [{"column": name, "op": "not_null"} for name in gaps]
        return [
            *([base.stage("known", "prepare.filter", where=where)] if gaps else []),
            base.stage("distinct", "prepare.deduplicate", columns=[self.text]),
            base.stage(
                "split",
                "prepare.split",
                target=self.target,
                test_fraction=self.test_fraction,
                group=self.group,
            ),
        ]
