"""Owns the template for finding triage: which static-analysis findings people dismiss."""

from __future__ import annotations

import msgspec

from agent.templates import base, profiles
from protocol import pipelines, problems

DISMISSED, REAL = "false_positive", "true_positive"
LABEL = "triage"
WIDTH = 2000
BY_CHARACTERS = {"analyzer": "char_wb", "ngram_range": [2, 4]}
"""In code, parts of names say more than words do."""


class Triage(base.Template, frozen=True, kw_only=True):
    """Tell false from true positives among SARIF findings, by what people suppressed before.

    A finding with a suppression is a false positive, any other a true one. Whole files go to one
    side of the split: findings of one file resemble each other.
    """

    uri: base.Uris
    """SARIF 2.1.0."""
    name: base.Name = "finding-triage"
    """Of the pipeline and the registered model."""
    suppressed: str = "suppressed"
    """The column that says whether a person dismissed the finding."""
    group: str = "file"
    text: tuple[str, ...] = ("snippet", "message")
    """Columns read as text, where the data has them."""
    categories: tuple[str, ...] = ("rule_id", "level", "severity", "confidence")
    test_fraction: base.Fraction = 0.25
    metric: str = "f1_macro"
    folds: base.Positive = 5
    strengths: tuple[float, ...] = (0.1, 1.0, 10.0)
    """Of the regularisation: candidates for C."""
    deploy: bool = False
    """Whether a model that is registered answers at once, at an endpoint of its name."""

    def source(self) -> pipelines.Stage:
        """Read the findings."""
        return base.stage("load", "ingest.sarif", uri=self.uri)

    def design(self, profile: profiles.Profile) -> pipelines.Pipeline:
        """Label by suppression, split by file, encode rule and code, train, judge, register."""
        base.required(profile, {"suppressed": self.suppressed, "group": self.group})
        told = {column.name for column in profile.columns if column.nulls < profile.rows}
        text = [name for name in self.text if name in told]
        categories = [name for name in self.categories if name in told]
        if not text and not categories:
            raise base.InvalidTemplate([_nothing_to_learn_from(profile)])
        stages = [
            *base.chained([self.source(), *self._labelling(text, categories)]),
            base.stage("profile", "quality.profile", inputs={"table": "split.train"}),
            *(planned := self._features(text, categories)),
            self._training(planned[-1].id),
            *base.ending(
                self.name,
                f"{self.name}: which findings are dismissed",
                self.metric,
                deploy=self.deploy,
            ),
        ]
        text_ = "true or false positive, from findings that people have triaged"
        return pipelines.Pipeline(name=self.name, stages=stages, description=text_)

    def _labelling(self, text: list[str], categories: list[str]) -> list[pipelines.Stage]:
        dismissed = {"column": self.suppressed, "op": "==", "value": True}
        return [
            base.stage(
                "label",
                "prepare.label",
                column=LABEL,
                rules=[{"label": DISMISSED, "where": [dismissed]}],
                default=REAL,
                drop_sources=True,
            ),
            base.stage(
                "columns",
                "prepare.select",
                columns=[*dict.fromkeys([self.group, *categories, *text, LABEL])],
            ),
            base.stage(
                "split",
                "prepare.split",
                target=LABEL,
                strategy="group",
                group=self.group,
                test_fraction=self.test_fraction,
            ),
        ]

    def _features(self, text: list[str], categories: list[str]) -> list[pipelines.Stage]:
        """Plan rules and code one after the other; the last plan carries both."""
        stages = []
        if categories:
            stages.append(base.stage("rules", "features.encode", columns=categories))
        if text:
            stages.append(
                base.stage("code", "features.text", columns=text, width=WIDTH, params=BY_CHARACTERS)
            )
        train = {"train": "split.train"}
        linked = [msgspec.structs.replace(stages[0], inputs=train)]
        for each in stages[1:]:
            inputs = train | {"features": linked[-1].id}
            linked.append(msgspec.structs.replace(each, inputs=inputs))
        return linked

    def _training(self, plan: str) -> pipelines.Stage:
        return base.stage(
            "train",
            "train.model",
            model="LogisticRegression",
            params={"class_weight": "balanced", "max_iter": 2000},
            search={"strategy": "grid", "space": {"C": list(self.strengths)}},
            target=LABEL,
            task="classification",
            metric=self.metric,
            validation={"folds": max(2, self.folds), "scheme": "group", "group": self.group},
            inputs={"train": "split.train", "features": plan},
        )


def _nothing_to_learn_from(profile: profiles.Profile) -> problems.Problem:
    return problems.Problem(
        code="invalid_field",
        message="the findings have none of the columns to learn from",
        path="$.params.text",
        hint=f"their columns are {', '.join(profile.names[:20])}",
    )
