"""Owns fitting a feature plan on the training rows and applying it to both sides of a split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stages import columns, kit, values
from stages.features import plan

if TYPE_CHECKING:
    import pandas as pd


class Unfittable(kit.DataFault):
    """The plan can't be fitted on the training rows, or not be applied."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the features can't be computed: {reason}",
            hint="impute gaps and encode text before steps that need complete numbers",
            path="$.features",
        )


class Applied(NamedTuple):
    """Both sides as features, and what was made."""

    train: values.Table
    test: values.Table
    report: values.Report


@kit.stage("features.apply", libraries=("scikit-learn", "pandas", "numpy"))
class Apply(kit.Stage, frozen=True):
    """Fit a feature plan on `train` alone and apply it to `train` and `test`.

    Training does this by itself, and anew in every fold; this is for looking at the features, or
    for a model that is trained elsewhere. Without `test`, the training rows stand in for it.
    """

    target: str | None = None
    """Passed through, and given to the encoders that need it."""
    keep: list[str] = []
    """Columns to pass through."""

    def run(
        self, train: values.Table, features: values.FeaturePlan, test: values.Table | None = None
    ) -> Applied:
        """Fit and apply."""
        columns.require_rows(train)
        self._check(train, features)
        fitted, made = self._fit(train, features)
        names = plan.output_names(fitted)
        other = self._transform(fitted, features, test) if test is not None else made
        return Applied(
            self._table(made, names, train),
            self._table(other, names, test if test is not None else train),
            values.Report(_report(features, names)),
        )

    def _check(self, train: values.Table, features: values.FeaturePlan) -> None:
        columns.require(train, [*([self.target] if self.target else []), *self.keep], "$.keep")
        if self.target in plan.used_columns(features):
            raise TargetAmongFeatures(str(self.target))

    def _fit(self, train: values.Table, features: values.FeaturePlan) -> tuple[Any, Any]:
        transformer = plan.build(features, train.columns)
        frame = train.pandas()
        target = frame[self.target] if self.target else None
        try:
            # In one go, since a target encoder cross-fits the rows it learns from.
            made = transformer.fit_transform(frame, target)
        except (ValueError, TypeError, AttributeError) as error:
            raise Unfittable(str(error).splitlines()[0]) from error
        return transformer, made

    def _transform(self, fitted: Any, features: values.FeaturePlan, test: values.Table) -> Any:
        columns.require(test, plan.used_columns(features), "$.test")
        try:
            return fitted.transform(test.pandas())
        except (ValueError, TypeError, AttributeError) as error:
            raise Unfittable(str(error).splitlines()[0]) from error

    def _table(self, made: Any, names: list[str], source: values.Table) -> values.Table:
        import pandas as pd

        frame = pd.DataFrame(made, columns=names).infer_objects()
        passed = [*self.keep, *([self.target] if self.target in source.columns else [])]
        return values.Table.from_pandas(_beside(frame, source, [str(name) for name in passed]))


class TargetAmongFeatures(kit.DataFault):
    """A plan takes the target as a feature."""

    def __init__(self, target: str) -> None:
        super().__init__(
            f"the feature plan takes the target {target!r} as a feature",
            hint="name the target in the feature stages, so that they leave it out",
            path="$.target",
        )


def _beside(frame: pd.DataFrame, source: values.Table, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    passed = source.arrow.select([n for n in names if n not in frame.columns]).to_pandas()
    beside: pd.DataFrame = pd.concat([frame, passed], axis=1)
    return beside


def _report(features: values.FeaturePlan, names: list[str]) -> dict[str, Any]:
    raw, count = plan.used_columns(features), len(features.steps)
    return {
        "title": "Features",
        "summary": f"{len(raw)} columns became {len(names)} features in {count} steps",
        "steps": [
            {"encoder": step.encoder, "columns": step.columns, "reason": step.reason}
            for step in features.steps
        ],
        "features": names[:1000],
    }
