"""Owns the stages that add a fitted transformation to a feature plan, without fitting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from stages import columns, kit, values
from stages.features import encoders


def extended(features: values.FeaturePlan | None, *steps: values.FeatureStep) -> values.FeaturePlan:
    """Add steps to a plan, or begin one; raise if an encoder would refuse its parameters."""
    earlier = features.steps if features else []
    for number, step in enumerate(steps, start=len(earlier)):
        encoders.make(step, f"$.steps[{number}]")
    return values.FeaturePlan([*earlier, *steps])


def _but(target: str | None, exclude: Sequence[str]) -> list[str]:
    return [*exclude, *([target] if target else [])]


def _numbers(train: values.Table, names: list[str], but: list[str]) -> list[str]:
    chosen = columns.chosen(train, names, but, "number")
    columns.require_numbers(train, chosen, "$.columns")
    columns.require_finite(train, chosen)
    return _some(chosen, train, "of numbers")


def _texts(train: values.Table, names: list[str], but: list[str]) -> list[str]:
    chosen = columns.chosen(train, names, but, "text")
    for name in chosen:
        kind = train.arrow.schema.field(name).type
        if columns.sort(kind) != "text":
            raise NotText(name, str(kind))
    return _some(chosen, train, "of text")


def _some(chosen: list[str], train: values.Table, sort: str) -> list[str]:
    if not chosen:
        raise columns.NoSuchColumn([f"({sort})"], train.columns, "$.columns")
    return chosen


class NotText(kit.DataFault):
    """A column that must hold text holds something else."""

    def __init__(self, column: str, found: str) -> None:
        super().__init__(
            f"the column {column!r} must hold text, and is of type {found}",
            hint="use prepare.cast with type 'text' first",
            path="$.columns",
        )


@kit.stage("features.impute", libraries=("scikit-learn",))
class Impute(kit.Stage, frozen=True):
    """Plan to fill gaps with what the training rows say: a mean, a median, neighbours."""

    strategy: Literal["mean", "median", "most_frequent", "constant", "knn"] = "median"
    columns: list[str] = []
    """All columns of numbers, where none are named."""
    target: str | None = None
    exclude: list[str] = []
    value: str | int | float | None = None
    """For `constant`."""
    flag: bool = False
    """Add a column that says where a gap was."""

    def run(
        self, train: values.Table, features: values.FeaturePlan | None = None
    ) -> values.FeaturePlan:
        """Add the steps."""
        but = _but(self.target, self.exclude)
        if self.strategy in ("most_frequent", "constant"):
            names = _some(columns.chosen(train, self.columns, but, "number", "text"), train, "")
        else:
            names = _numbers(train, self.columns, but)
        params: dict[str, Any] = {"fill_value": self.value} if self.strategy == "constant" else {}
        fill = values.FeatureStep(f"impute_{self.strategy}", names, params, "gaps are filled")
        flag = values.FeatureStep("missing", names, {}, "a gap may mean something")
        return extended(features, *([flag] if self.flag else []), fill)


@kit.stage("features.scale", libraries=("scikit-learn",))
class Scale(kit.Stage, frozen=True):
    """Plan to scale columns of numbers."""

    method: Literal["standard", "robust", "minmax", "maxabs", "quantile", "power"] = "standard"
    columns: list[str] = []
    """All columns of numbers, where none are named."""
    target: str | None = None
    exclude: list[str] = []
    params: dict[str, Any] = {}

    def run(
        self, train: values.Table, features: values.FeaturePlan | None = None
    ) -> values.FeaturePlan:
        """Add the step."""
        names = _numbers(train, self.columns, _but(self.target, self.exclude))
        step = values.FeatureStep(self.method, names, self.params, "brought to one scale")
        return extended(features, step)


@kit.stage("features.encode", libraries=("scikit-learn",))
class Encode(kit.Stage, frozen=True):
    """Plan to make numbers of categories, or bins and powers of numbers."""

    method: Literal["onehot", "ordinal", "target", "bins", "poly"] = "onehot"
    columns: list[str] = []
    """All columns of text (of numbers for `bins` and `poly`), where none are named."""
    target: str | None = None
    exclude: list[str] = []
    params: dict[str, Any] = {}

    def run(
        self, train: values.Table, features: values.FeaturePlan | None = None
    ) -> values.FeaturePlan:
        """Add the step."""
        but = _but(self.target, self.exclude)
        if self.method in ("bins", "poly"):
            names = _numbers(train, self.columns, but)
        else:
            names = _some(columns.chosen(train, self.columns, but, "text"), train, "of text")
        step = values.FeatureStep(self.method, names, self.params, f"encoded by {self.method}")
        return extended(features, step)


@kit.stage("features.hash", libraries=("scikit-learn",))
class Hash(kit.Stage, frozen=True):
    """Plan to hash categories of high cardinality into a fixed number of columns each."""

    columns: Annotated[list[str], msgspec.Meta(min_length=1)]
    width: Annotated[int, msgspec.Meta(ge=2, le=2**20)] = 64

    def run(
        self, train: values.Table, features: values.FeaturePlan | None = None
    ) -> values.FeaturePlan:
        """Add the step."""
        names = _texts(train, self.columns, [])
        params = {"n_features": self.width}
        return extended(features, values.FeatureStep("hashing", names, params, "many categories"))


@kit.stage("features.text", libraries=("scikit-learn",))
class Text(kit.Stage, frozen=True):
    """Plan to make word vectors of columns of text."""

    columns: Annotated[list[str], msgspec.Meta(min_length=1)]
    method: Literal["tfidf", "hashing"] = "tfidf"
    width: Annotated[int, msgspec.Meta(ge=2, le=2**20)] = 200
    """The number of columns that each text becomes, at most."""
    params: dict[str, Any] = {}

    def run(
        self, train: values.Table, features: values.FeaturePlan | None = None
    ) -> values.FeaturePlan:
        """Add the step."""
        names = _texts(train, self.columns, [])
        size = {"max_features" if self.method == "tfidf" else "n_features": self.width}
        params = size | self.params
        return extended(
            features, values.FeatureStep(f"text_{self.method}", names, params, "free text")
        )


@kit.stage("features.pca", libraries=("scikit-learn",))
class Pca(kit.Stage, frozen=True):
    """Plan to replace columns of numbers by their principal components, filled and scaled first."""

    components: int | float = 0.95
    """A count, or the share of the variance to keep."""
    columns: list[str] = []
    target: str | None = None
    exclude: list[str] = []
    prepare: bool = True
    """Fill gaps by the median and scale first; without it earlier steps must have done so."""

    def run(
        self, train: values.Table, features: values.FeaturePlan | None = None
    ) -> values.FeaturePlan:
        """Add the steps."""
        names = _numbers(train, self.columns, _but(self.target, self.exclude))
        self._check(len(names))
        before = [
            values.FeatureStep("impute_median", names, {}, "components need complete rows"),
            values.FeatureStep("standard", names, {}, "components need one scale"),
        ]
        params = {"n_components": self.components}
        last = values.FeatureStep("pca", names, params, "fewer, uncorrelated columns")
        return extended(features, *(before if self.prepare else []), last)

    def _check(self, width: int) -> None:
        count = isinstance(self.components, int)
        most = width if count else 1
        if not 0 < self.components <= most or (not count and self.components == 1):
            raise BadComponents(self.components, width)


class BadComponents(kit.DataFault):
    """A number of components that the columns can't give."""

    def __init__(self, components: float, width: int) -> None:
        super().__init__(
            f"{components} components can't be made of {width} columns",
            hint="give a count up to the number of columns, or a share between 0 and 1",
            path="$.components",
        )


@kit.stage("features.select", libraries=("scikit-learn",))
class Select(kit.Stage, frozen=True):
    """Plan to keep the features that tell most about the target, or those that vary at all."""

    target: str
    method: Literal["k_best", "percentile", "variance"] = "k_best"
    count: Annotated[int, msgspec.Meta(ge=1)] = 10
    """How many to keep, for `k_best`."""
    percentile: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    threshold: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Variance below which a feature goes, for `variance`."""
    task: Literal["classification", "regression"] | None = None
    """Taken from the target's type where it is not given."""

    def run(
        self, train: values.Table, features: values.FeaturePlan | None = None
    ) -> values.FeaturePlan:
        """Add the steps; they select among all that the plan makes, or all numbers without one."""
        columns.require(train, [self.target], "$.target")
        if features is None:
            numbers = _numbers(train, [], [self.target])
            features = extended(None, values.FeatureStep("impute_median", numbers))
        varying = {"threshold": self.threshold if self.method == "variance" else 0.0}
        constant = values.FeatureStep("variance", [], varying, "what does not vary tells nothing")
        best = [] if self.method == "variance" else [self._best(train)]
        return extended(features, constant, *best)

    def _best(self, train: values.Table) -> values.FeatureStep:
        score = "f_classif" if self._task(train) == "classification" else "f_regression"
        size = {"k": self.count} if self.method == "k_best" else {"percentile": self.percentile}
        reason = f"the features that tell most about {self.target!r}"
        return values.FeatureStep(f"select_{self.method}", [], size | {"score": score}, reason)

    def _task(self, train: values.Table) -> str:
        import pyarrow as pa

        kind = train.arrow.schema.field(self.target).type
        if self.task is not None:
            return self.task
        return "regression" if pa.types.is_floating(kind) else "classification"
