"""Owns the encoders a feature plan may name, each one made of scikit-learn classes alone."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from stages import kit, values

Role = Literal["keeps", "makes", "flags", "selects"]


class UnknownEncoder(kit.DataFault):
    """A plan names an encoder that does not exist."""

    def __init__(self, encoder: str, path: str) -> None:
        super().__init__(
            f"there is no encoder {encoder!r}", hint=_closest(encoder, ENCODERS), path=path
        )


class UnknownParameter(kit.DataFault):
    """A plan gives an encoder a parameter that it does not have."""

    def __init__(self, encoder: str, parameter: str, known: Iterable[str], path: str) -> None:
        super().__init__(
            f"the encoder {encoder!r} has no parameter {parameter!r}",
            hint=_closest(parameter, known),
            path=path,
        )


def _closest(word: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=3)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "choose from " + ", ".join(choices)


class Encoder(msgspec.Struct, frozen=True):
    """How an encoder is made: class, parameters that differ from the class's defaults, role.

    A `keeps` encoder gives each column back under its name; `makes` gives new columns in place of
    it; `flags` adds columns beside it; `selects` chooses among columns.
    """

    module: str
    cls: str
    role: Role
    params: dict[str, Any] = {}
    fixed: tuple[str, ...] = ()
    """Parameters that a plan may not change."""
    text: bool = False
    """It takes one column of text at a time, as strings without gaps."""


_IMPUTE = "sklearn.impute"
_SCALE = "sklearn.preprocessing"
_TEXT = "sklearn.feature_extraction.text"
_SELECT = "sklearn.feature_selection"
_PLANE = "sklearn.decomposition"
_SEEDED = {"random_state": 0}
_FILL = {"keep_empty_features": True}
_FILL_FIXED = ("strategy", "missing_values", "copy", "add_indicator", "keep_empty_features")
_UNSEEN = {"handle_unknown": "use_encoded_value", "unknown_value": -1, "encoded_missing_value": -2}
_WHOLE = {"token_pattern": r"(?s).+", "lowercase": False, "norm": None, "n_features": 64}

ENCODERS: dict[str, Encoder] = {
    "impute_mean": Encoder(
        _IMPUTE, "SimpleImputer", "keeps", {"strategy": "mean", **_FILL}, _FILL_FIXED
    ),
    "impute_median": Encoder(
        _IMPUTE, "SimpleImputer", "keeps", {"strategy": "median", **_FILL}, _FILL_FIXED
    ),
    "impute_most_frequent": Encoder(
        _IMPUTE, "SimpleImputer", "keeps", {"strategy": "most_frequent", **_FILL}, _FILL_FIXED
    ),
    "impute_constant": Encoder(
        _IMPUTE, "SimpleImputer", "keeps", {"strategy": "constant", **_FILL}, _FILL_FIXED
    ),
    "impute_knn": Encoder(_IMPUTE, "KNNImputer", "keeps", _FILL, _FILL_FIXED),
    "missing": Encoder(_IMPUTE, "MissingIndicator", "flags", {"features": "all"}, ("features",)),
    "standard": Encoder(_SCALE, "StandardScaler", "keeps"),
    "robust": Encoder(_SCALE, "RobustScaler", "keeps"),
    "minmax": Encoder(_SCALE, "MinMaxScaler", "keeps"),
    "maxabs": Encoder(_SCALE, "MaxAbsScaler", "keeps"),
    "quantile": Encoder(_SCALE, "QuantileTransformer", "keeps", {"n_quantiles": 50, **_SEEDED}),
    "power": Encoder(_SCALE, "PowerTransformer", "keeps"),
    "ordinal": Encoder(_SCALE, "OrdinalEncoder", "keeps", _UNSEEN),
    "onehot": Encoder(
        _SCALE,
        "OneHotEncoder",
        "makes",
        {"handle_unknown": "infrequent_if_exist", "sparse_output": False},
        ("sparse_output",),
    ),
    "target": Encoder(_SCALE, "TargetEncoder", "makes", fixed=("cv", "shuffle", "random_state")),
    "bins": Encoder(_SCALE, "KBinsDiscretizer", "makes", {"encode": "onehot-dense", **_SEEDED}),
    "poly": Encoder(_SCALE, "PolynomialFeatures", "makes", {"include_bias": False}),
    "pca": Encoder(_PLANE, "PCA", "makes", _SEEDED),
    "hashing": Encoder(
        _TEXT, "HashingVectorizer", "makes", _WHOLE, ("token_pattern", "analyzer"), text=True
    ),
    "text_tfidf": Encoder(_TEXT, "TfidfVectorizer", "makes", {"max_features": 200}, text=True),
    "text_hashing": Encoder(_TEXT, "HashingVectorizer", "makes", {"n_features": 256}, text=True),
    "variance": Encoder(_SELECT, "VarianceThreshold", "selects"),
    "select_k_best": Encoder(_SELECT, "SelectKBest", "selects", {"k": 10}),
    "select_percentile": Encoder(_SELECT, "SelectPercentile", "selects"),
    "passthrough": Encoder("", "", "makes"),
}
SCORES = ("f_classif", "f_regression", "chi2")
"""What a univariate selection may score by (`score`); deterministic ones only."""


def look_up(step: values.FeatureStep, path: str) -> Encoder:
    """Find a step's encoder; raise UnknownEncoder with close matches."""
    try:
        return ENCODERS[step.encoder]
    except KeyError:
        raise UnknownEncoder(step.encoder, f"{path}.encoder") from None


def make(step: values.FeatureStep, path: str = "$") -> Any:
    """Make a step's unfitted transformer; `"passthrough"` for the one that does nothing."""
    encoder = look_up(step, path)
    if not encoder.cls:
        return "passthrough"
    cls = getattr(importlib.import_module(encoder.module), encoder.cls)
    params = _params(step, encoder, cls, path)
    if step.encoder == "target":
        params["cv"] = _folds()
    return cls(**params)


def _folds() -> Any:
    """Cross-fit the target's means on the same folds every time."""
    from sklearn import model_selection

    return model_selection.KFold(5, shuffle=True, random_state=0)


def _params(step: values.FeatureStep, encoder: Encoder, cls: Any, path: str) -> dict[str, Any]:
    given = dict(step.params)
    score = _score(step, given.pop("score", "f_classif"), path) if "Select" in cls.__name__ else {}
    known = set(cls().get_params()) - set(encoder.fixed) - {"score_func", "dtype"}
    for name in given:
        if name not in known:
            raise UnknownParameter(step.encoder, name, known, f"{path}.params.{name}")
    return encoder.params | score | {name: _plain(value) for name, value in given.items()}


def _score(step: values.FeatureStep, name: str, path: str) -> dict[str, Any]:
    from sklearn import feature_selection

    if name not in SCORES:
        raise UnknownParameter(step.encoder, f"score={name}", SCORES, f"{path}.params.score")
    return {"score_func": getattr(feature_selection, name)}


def _plain(value: Any) -> Any:
    """Give a pair of numbers as a tuple, which is how scikit-learn takes ranges."""
    pair = isinstance(value, list) and len(value) == 2  # noqa: PLR2004 - a range has two ends
    if pair and all(isinstance(end, int | float) for end in value):
        return tuple(value)
    return value
