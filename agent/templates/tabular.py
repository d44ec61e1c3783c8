"""Owns the templates for tables: one row is one case, the target is one of its columns."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from agent.templates import base, profiles
from protocol import pipelines

SMALL_ROWS = 500
"""Under this a linear model: boosted trees need more rows before they generalise."""


class Tabular(base.Template, frozen=True, kw_only=True):
    """What both tabular templates ask for."""

    task: ClassVar[Literal["classification", "regression"]]

    uri: base.Uris
    """The table: CSV, Parquet, JSON Lines or Arrow; several are a primary and its backups."""
    target: str
    name: base.Name = "tabular"
    """Of the pipeline and the registered model."""
    exclude: list[str] = []
    """Columns the model must not see."""
    group: str | None = None
    """Rows that share this column's value stay on one side of the split and in one fold."""
    test_fraction: base.Fraction = 0.2
    metric: str = ""
    folds: base.Positive = 5
    deploy: bool = False
    """Whether a model that is registered answers at once, at an endpoint of its name."""

    def source(self) -> pipelines.Stage:
        """Read the table."""
        return base.stage("load", "ingest.table", uri=self.uri)

    def design(self, profile: profiles.Profile) -> pipelines.Pipeline:
        """Deduplicate, split, choose features and an estimator, train, judge, register."""
        wanted = {"target": self.target, "group": self.group}
        base.required(profile, wanted | {f"exclude[{i}]": c for i, c in enumerate(self.exclude)})
        stages = [
            *base.chained([self.source(), *self._cleaning(profile)]),
            base.stage("profile", "quality.profile", inputs={"table": "split.train"}),
            base.stage(
                "plan",
                "features.auto",
                target=self.target,
                task=self.task,
                exclude=[*self.exclude, *([self.group] if self.group else [])],
                inputs={"train": "split.train"},
            ),
            self._training(profile),
            *base.ending(
                self.name,
                f"{self.name}: {self.target}",
                self._metric(),
                explained="plan.report",
                deploy=self.deploy,
            ),
        ]
        return pipelines.Pipeline(
            name=self.name, stages=stages, description=f"{self.task} of {self.target}"
        )

    def _cleaning(self, profile: profiles.Profile) -> list[pipelines.Stage]:
        where = [{"column": self.target, "op": "not_null"}]
        gaps = profile.column(self.target).nulls > 0
        return [
            *([base.stage("known", "prepare.filter", where=where)] if gaps else []),
            base.stage("distinct", "prepare.deduplicate"),
            base.stage(
                "split",
                "prepare.split",
                target=self.target,
                test_fraction=self.test_fraction,
                group=self.group,
            ),
        ]

    def _training(self, profile: profiles.Profile) -> pipelines.Stage:
        return base.stage(
            "train",
            "train.model",
            **self._estimator(linear=profile.rows < SMALL_ROWS or profile.has_text),
            target=self.target,
            task=self.task,
            metric=self._metric(),
            validation={"folds": max(2, self.folds)}
            | ({"scheme": "group", "group": self.group} if self.group else {}),
            inputs={"train": "split.train", "features": "plan.features"},
        )

    def _metric(self) -> str:
        defaults = {"classification": "f1_macro", "regression": "rmse"}
        return self.metric or defaults[self.task]

    def _estimator(self, *, linear: bool) -> dict[str, Any]:
        raise NotImplementedError


class Classification(Tabular, frozen=True, kw_only=True):
    """Predict a class from a table: features by column, a grid search, a fair comparison."""

    task = "classification"

    def _estimator(self, *, linear: bool) -> dict[str, Any]:
        if linear:
            return {
                "model": "LogisticRegression",
                "params": {"max_iter": 2000},
                "search": {"strategy": "grid", "space": {"C": [0.1, 1.0, 10.0]}},
            }
        return {"model": "HistGradientBoostingClassifier", "search": _boosting()}


class Regression(Tabular, frozen=True, kw_only=True):
    """Predict a number from a table: features by column, a grid search, a fair comparison."""

    task = "regression"

    def _estimator(self, *, linear: bool) -> dict[str, Any]:
        if linear:
            space = {"alpha": [0.1, 1.0, 10.0]}
            return {"model": "Ridge", "search": {"strategy": "grid", "space": space}}
        return {"model": "HistGradientBoostingRegressor", "search": _boosting()}


def _boosting() -> dict[str, Any]:
    space = {"learning_rate": [0.05, 0.1], "max_leaf_nodes": [15, 31]}
    return {"strategy": "grid", "space": space}
