"""Owns the stage that designs a feature plan from the columns it sees, and says why."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from stages import columns, kit, values
from stages.features import choice, plan, steps

_FLAG_FROM = 0.01
"""Gaps in at least this share of the rows get a column of their own."""
_REASONS: dict[str, str] = {
    "number": "numbers of ordinary spread",
    "skewed": "numbers with long tails, by rank",
    "category": "few categories: a column each",
    "many": "many categories: the target's mean, cross-fitted",
    "hashed": "many categories, hashed",
    "text": "prose",
}
_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "number": ("standard", {}),
    "skewed": ("quantile", {"output_distribution": "normal"}),
    "category": ("onehot", {}),
    "many": ("target", {}),
    "hashed": ("hashing", {}),
    "text": ("text_tfidf", {}),
}


class Designed(NamedTuple):
    """A plan, and the reason for each choice."""

    features: values.FeaturePlan
    report: values.Report


@kit.stage("features.auto", libraries=("scikit-learn", "pandas", "pyarrow"))
class Auto(kit.Stage, frozen=True):
    """Choose an encoder for every column by what is in it, and explain each choice.

    Identifiers, constants, empty columns and copies of the target are left out.
    """

    target: str | None = None
    exclude: list[str] = []
    task: Literal["classification", "regression", "forecast"] | None = None
    """For a forecast, nothing is averaged over the target, since folds would look ahead."""

    def run(self, train: values.Table, features: values.FeaturePlan | None = None) -> Designed:
        """Design the plan; columns that an earlier plan names are left to it."""
        columns.require_rows(train)
        columns.require(train, [self.target] if self.target else [], "$.target")
        columns.require(train, self.exclude, "$.exclude")
        looks = [self._look(train, name) for name in self._names(train, features)]
        numbers = [look.column for look in looks if look.choice in ("number", "skewed")]
        columns.require_finite(train, numbers)
        designed = steps.extended(features, *_fills(looks), *_encodings(looks))
        if not plan.used_columns(designed):
            raise NothingUsable(looks)
        return Designed(designed, values.Report(_report(looks)))

    def _names(self, train: values.Table, features: values.FeaturePlan | None) -> list[str]:
        done = plan.used_columns(features) if features else []
        return [n for n in train.columns if n not in (*done, *self.exclude, self.target)]

    def _look(self, train: values.Table, name: str) -> choice.Look:
        return choice.choose(train, name, self.target, forecast=self.task == "forecast")


class NothingUsable(kit.DataFault):
    """No column is worth anything as a feature."""

    def __init__(self, looks: list[choice.Look]) -> None:
        reasons = "; ".join(f"{look.column!r}: {look.reason}" for look in looks[:5])
        super().__init__(
            f"no column can be used as a feature: {reasons or 'there is none but the target'}",
            hint="check what was read, or name columns in other feature stages",
        )


def _fills(looks: list[choice.Look]) -> list[values.FeatureStep]:
    numbers = [look for look in looks if look.choice in ("number", "skewed")]
    flagged = [look.column for look in numbers if look.missing >= _FLAG_FROM]
    filled = [look.column for look in numbers]
    found = []
    if flagged:
        found.append(values.FeatureStep("missing", flagged, {}, "a gap may mean something"))
    if filled:
        reason = "gaps, now or later, get the median of the training rows"
        found.append(values.FeatureStep("impute_median", filled, {}, reason))
    return found


def _encodings(looks: list[choice.Look]) -> list[values.FeatureStep]:
    found = []
    for name, (encoder, params) in _ENCODERS.items():
        if chosen := [look.column for look in looks if look.choice == name]:
            found.append(values.FeatureStep(encoder, chosen, params, _REASONS[name]))
    return found


def _report(looks: list[choice.Look]) -> dict[str, Any]:
    used = [look for look in looks if look.choice != "drop"]
    return {
        "title": "Features chosen",
        "summary": f"{len(used)} of {len(looks)} columns are used",
        "columns": [
            {
                "column": look.column,
                "choice": "left out" if look.choice == "drop" else _ENCODERS[look.choice][0],
                "reason": look.reason,
                "missing": look.missing,
                "distinct": look.distinct,
            }
            for look in looks
        ],
    }
