"""Owns the stage `train.model`: what is to be trained; an ML-Training-Specialist carries it out."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from stages import kit, models, values


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A numeric range, inclusive, for random and Bayesian search."""

    low: float
    high: float
    log: bool = False
    integer: bool = False


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How parameters are searched; `space` maps a parameter to its candidates or its range."""

    strategy: Literal["none", "grid", "random", "bayesian"] = "none"
    space: dict[str, list[Any] | Range] = {}
    max_trials: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 20
    parallel: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Validation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a candidate is scored: k folds; `time` keeps the order, `group` keeps groups whole.

    A network is scored on one fold, and trained on the others.
    """

    folds: Annotated[int, msgspec.Meta(ge=2, le=100)] = 5
    scheme: Literal["auto", "random", "stratified", "group", "time"] = "auto"
    group: str | None = None


class Fallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in when no specialist can train: the registry's champion, or a naive model."""

    use: Literal["champion", "baseline"]
    model: str | None = None
    """The registered name whose champion is taken."""


class Trained(NamedTuple):
    """What a training gives."""

    model: models.Model
    metrics: values.Metrics
    report: values.Report


@kit.stage(
    "train.model",
    delegated=True,
    libraries=(
        *("scikit-learn", "optuna", "skops"),
        *("torch", "safetensors", "pillow", "tokenizers", "transformers"),
    ),
)
class TrainModel(kit.Stage, frozen=True):
    """Search for the best model of a framework, delegated to an ML-Training-Specialist.

    `sklearn` judges a candidate on folds; `torch-images` and `transformers-text` on one validation
    part, epoch by epoch.
    """

    model: str
    """A name from the framework's allow-list: an estimator, as `HistGradientBoostingRegressor`, or
    a network, as `efficientnet-lite0`."""
    target: str
    framework: str = "sklearn"
    """`sklearn`, `lightgbm`, `xgboost`, `torch-images` or `transformers-text`."""
    task: Literal["classification", "regression", "forecast"] | None = None
    """Inferred from the estimator where it is not given."""
    params: dict[str, Any] = {}
    search: Search = Search()
    validation: Validation = Validation()
    metric: str | None = None
    """What the search maximises (losses are minimised): `f1_macro`, `rmse`, `mae` … by task."""
    fallback: Fallback | Literal["fail"] = "fail"
    """When all attempts to reach a specialist are spent."""

    def run(
        self,
        train: values.Table,  # noqa: ARG002 - a port
        features: values.FeaturePlan | None,  # noqa: ARG002 - a port
    ) -> Trained:
        """Refuse: this stage is delegated."""
        msg = "train.model is carried out by an ML-Training-Specialist"
        raise kit.NotAllowed(msg)


def results(
    metrics: dict[str, float], params: dict[str, Any], trials: list[dict[str, Any]]
) -> tuple[values.Metrics, values.Report]:
    """Give the metrics and the report of a training, as the stage's outputs."""
    report = {
        "title": "Training",
        "summary": f"{len(trials)} trials, parameters chosen: {params}",
        "params": params,
        "metrics": metrics,
        "trials": trials,
    }
    return values.Metrics(metrics, {"trials": trials, "params": params}), values.Report(report)
