"""Owns how a feature plan becomes a scikit-learn transformer; unfitted, so that it cannot leak.

Steps that keep their columns (imputing, scaling) run first, in the plan's order; steps that make
columns see the result; steps that select over everything come last. Columns that no step names
are dropped. The transformer holds classes of scikit-learn alone, so it can be stored safely.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stages import kit, values
from stages.features import encoders

Numbered = tuple[int, values.FeatureStep]


class EmptyPlan(kit.DataFault):
    """A plan has no step that gives a column."""

    def __init__(self) -> None:
        super().__init__(
            "the feature plan names no column",
            hint="add a feature stage, or train without a feature plan",
            path="$.steps",
        )


class MissingColumns(kit.DataFault):
    """A plan names columns that the data does not have."""

    def __init__(self, missing: Sequence[str], available: Sequence[str], path: str) -> None:
        super().__init__(
            f"the data has no column {', '.join(repr(name) for name in missing[:5])}",
            hint="the columns are " + ", ".join(available[:20]),
            path=path,
        )
        self.missing = list(missing)


def build(plan: values.FeaturePlan, columns_available: Iterable[str], *, dense: bool = True) -> Any:
    """Make the unfitted scikit-learn Pipeline that turns raw columns into features.

    It takes a data frame that has at least the plan's columns. With `dense=False` text features
    may come out as a sparse matrix.

    Raises EmptyPlan, MissingColumns, encoders.UnknownEncoder or encoders.UnknownParameter.
    """
    from sklearn.pipeline import Pipeline

    _check(plan, list(columns_available))
    columns = used_columns(plan)
    if not columns:
        raise EmptyPlan
    parts = [*_flagged(plan, columns), *_kept(plan, columns), _made(plan, columns, dense=dense)]
    parts += [(f"{number}_{step.encoder}", _make(number, step)) for number, step in _overall(plan)]
    return Pipeline(parts)


def used_columns(plan: values.FeaturePlan) -> list[str]:
    """Name the raw columns that the plan takes, in order of appearance."""
    return list(dict.fromkeys(name for step in plan.steps for name in step.columns))


def output_names(fitted: Any) -> list[str]:
    """Name the columns that a fitted transformer gives; hashed ones are numbered."""
    from sklearn.compose import ColumnTransformer

    names: list[str] = []
    for _, part in fitted.steps:
        if isinstance(part, ColumnTransformer):
            names = _columns_made(part)
        else:
            names = [name for name, kept in zip(names, part.get_support(), strict=True) if kept]
    return names


def _check(plan: values.FeaturePlan, available: list[str]) -> None:
    for number, step in enumerate(plan.steps):
        encoders.look_up(step, f"$.steps[{number}]")
        if missing := [name for name in step.columns if name not in available]:
            raise MissingColumns(missing, available, f"$.steps[{number}].columns")


def _numbered(plan: values.FeaturePlan, role: encoders.Role) -> list[Numbered]:
    return [
        (number, step)
        for number, step in enumerate(plan.steps)
        if encoders.ENCODERS[step.encoder].role == role
    ]


def _overall(plan: values.FeaturePlan) -> list[Numbered]:
    """List the selections over everything: those that name no columns."""
    return [(number, step) for number, step in _numbered(plan, "selects") if not step.columns]


def _make(number: int, step: values.FeatureStep) -> Any:
    return encoders.make(step, f"$.steps[{number}]")


def _flags(plan: values.FeaturePlan) -> list[str]:
    return [name for _, step in _numbered(plan, "flags") for name in step.columns]


def _flagged(plan: values.FeaturePlan, columns: list[str]) -> list[tuple[str, Any]]:
    """Flag gaps before anything fills them."""
    entries: list[Any] = [
        (f"{number}_{step.encoder}", _make(number, step), step.columns)
        for number, step in _numbered(plan, "flags")
    ]
    return [("flag", _layer(entries, columns))] if entries else []


def _kept(plan: values.FeaturePlan, columns: list[str]) -> list[tuple[str, Any]]:
    """Build the layers of steps that keep their columns, and fill the gaps in text."""
    carried = [*columns, *(f"missingindicator_{name}" for name in _flags(plan))]
    layers: list[tuple[str, Any]] = []
    for steps in _rounds(_numbered(plan, "keeps")):
        taken = {name for _, step in steps for name in step.columns}
        entries = [(f"{n}_{step.encoder}", _make(n, step), step.columns) for n, step in steps]
        rest = [name for name in carried if name not in taken]
        layers.append((f"keep_{len(layers)}", _layer(entries, rest)))
    if texts := _texts(plan):
        filled = ("fill", encoders.make(_fill(texts)), texts)
        rest = [name for name in carried if name not in texts]
        layers.append(("text", _layer([filled], rest)))
    return layers


def _rounds(steps: list[Numbered]) -> list[list[Numbered]]:
    """Group consecutive steps whose columns do not overlap, so that they run side by side."""
    rounds: list[list[Numbered]] = []
    taken: set[str] = set()
    for number, step in steps:
        if not rounds or taken & set(step.columns):
            rounds.append([])
            taken = set()
        rounds[-1].append((number, step))
        taken |= set(step.columns)
    return rounds


def _texts(plan: values.FeaturePlan) -> list[str]:
    texts = (step for step in plan.steps if encoders.ENCODERS[step.encoder].text)
    return list(dict.fromkeys(name for step in texts for name in step.columns))


def _fill(columns: list[str]) -> values.FeatureStep:
    return values.FeatureStep("impute_constant", columns, {"fill_value": ""})


def _layer(entries: list[Any], kept: list[str]) -> Any:
    """Transform some columns and carry the others along, under their names."""
    from sklearn.compose import ColumnTransformer

    rest = [("carried", "passthrough", kept)] if kept else []
    layer = ColumnTransformer([*entries, *rest], verbose_feature_names_out=False)
    return layer.set_output(transform="pandas")


def _made(plan: values.FeaturePlan, columns: list[str], *, dense: bool) -> tuple[str, Any]:
    """Make the columns that come out; what no step turns into others comes out as it is."""
    from sklearn.compose import ColumnTransformer

    steps = sorted([*_numbered(plan, "makes"), *_numbered(plan, "selects")])
    entries = [entry for number, step in steps for entry in _entries(number, step)]
    replaced = {name for _, step in steps for name in step.columns}
    rest = [name for name in columns if name not in replaced]
    rest += [f"missingindicator_{name}" for name in _flags(plan)]
    if rest:
        entries.append(("carried", "passthrough", rest))
    threshold = 0.0 if dense else 0.3
    made = ColumnTransformer(entries, sparse_threshold=threshold, verbose_feature_names_out=False)
    return ("make", made)


def _entries(number: int, step: values.FeatureStep) -> list[tuple[str, Any, Any]]:
    if not step.columns:
        return []
    name = f"{number}_{step.encoder}"
    if not encoders.ENCODERS[step.encoder].text:
        return [(name, _make(number, step), step.columns)]
    return [(f"{name}_{i}", _make(number, step), c) for i, c in enumerate(step.columns)]


def _columns_made(fitted: Any) -> list[str]:
    names: list[str] = []
    for name, transformer, columns in fitted.transformers_:
        width = fitted.output_indices_[name]
        if name != "remainder":
            names += _own_names(transformer, columns, width.stop - width.start)
    return names if len(set(names)) == len(names) else [f"{n}_{i}" for i, n in enumerate(names)]


def _own_names(transformer: Any, columns: Any, width: int) -> list[str]:
    if isinstance(columns, str):
        if hasattr(transformer, "get_feature_names_out"):
            return [f"{columns}_{word}" for word in transformer.get_feature_names_out()]
        return [f"{columns}_{number}" for number in range(width)]
    return [str(name) for name in transformer.get_feature_names_out(columns)]
