"""Owns what a template is: parameters, a source to look at, and a pure design of the stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from agent.templates import profiles
from protocol import pipelines, problems

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Uris = str | Annotated[list[str], msgspec.Meta(min_length=1)]
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]


class InvalidTemplate(Exception):
    """There is no such template, its parameters are wrong, or the data does not fit it."""

    def __init__(self, found: list[problems.Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in found))
        self.problems = found


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of a template; the docstring of each is what its card says.

    Nothing here does I/O: equal parameters and an equal profile give an equal pipeline.
    """

    def source(self) -> pipelines.Stage:
        """Name the stage that reads the data which is profiled before the design."""
        raise NotImplementedError

    def design(self, profile: profiles.Profile) -> pipelines.Pipeline:
        """Lay the stages. Raises InvalidTemplate where the data cannot be meant."""
        raise NotImplementedError


def stage(name: str, use: str, /, **given: Any) -> pipelines.Stage:
    """Make a stage: `inputs` and further fields by keyword, all others are its parameters.

    Parameters that are None are left out, so that the stage's own default holds.
    """
    fields = {key: given.pop(key) for key in ("inputs", "when", "needs") if key in given}
    params = {key: value for key, value in given.items() if value is not None}
    return pipelines.Stage(id=name, use=use, params=params, **fields)


def chained(stages: list[pipelines.Stage]) -> list[pipelines.Stage]:
    """Give each stage the table of the one before it."""
    first, *others = stages
    linked = [first]
    for each in others:
        inputs = {"table": f"{linked[-1].id}.table"}
        linked.append(msgspec.structs.replace(each, inputs=inputs))
    return linked


def required(profile: profiles.Profile, columns: Mapping[str, str | None]) -> None:
    """Refuse columns that the data does not have; `columns` is parameter to column."""
    found = [
        problems.Problem(
            code="invalid_field",
            message=f"the data has no column {column!r}",
            path=f"$.params.{parameter}",
            hint=f"its columns are {', '.join(profile.names[:20])}",
        )
        for parameter, column in columns.items()
        if column is not None and column not in profile.names
    ]
    if found:
        raise InvalidTemplate(found)


def only_better() -> list[pipelines.Condition]:
    """Register a model only if it beats the baseline, and the champion where there is one."""
    return [pipelines.Condition(metric="compare.win", op="==", value=1.0)]


def ending(
    name: str,
    title: str,
    metric: str,
    *,
    season: int | None = None,
    time: str | None = None,
    explained: str | None = None,
    deploy: bool = False,
) -> list[pipelines.Stage]:
    """Lay what follows every training: score, compare, register, deploy if asked to, report.

    `explained` names the report of how features were chosen, where there is one.
    """
    features = {"features": explained} if explained else {}
    return [
        stage(
            "score",
            "evaluate.holdout",
            season=season,
            time=time,
            inputs={"model": "train.model", "table": "split.test", "train": "split.train"},
        ),
        stage(
            "compare",
            "evaluate.compare",
            name=name,
            metric=metric,
            season=season,
            inputs={"model": "train.model", "table": "split.test", "train": "split.train"},
        ),
        stage(
            "keep",
            "register.model",
            name=name,
            metric=metric,
            promote="if_better",
            inputs={"model": "train.model", "metrics": "score.metrics"},
            when=only_better(),
        ),
        *([_deployment(name)] if deploy else []),
        stage(
            "page",
            "report.html",
            title=title,
            inputs={
                "metrics": "score.metrics",
                "comparison": "compare",
                "training": "train.metrics",
                "search": "train.report",
                "predictions": "score.predictions",
                "model": "train.model",
                "profile": "profile",
            }
            | features,
        ),
    ]


def _deployment(name: str) -> pipelines.Stage:
    """Let what was registered answer; what was not registered is not deployed either."""
    inputs = {"model": "train.model", "registered": "keep", "rows": "split.test"}
    return stage("deploy", "deploy.model", name=name, inputs=inputs, when=only_better())
