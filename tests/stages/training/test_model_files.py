"""Owns the claims about model files: canonical, and closed to foreign types."""

from __future__ import annotations

import pathlib
import pickle

import pytest
import skops.io
from sklearn import ensemble, preprocessing

from stages import models, skops_files
from tests.stages import fitted

CARD = models.ModelCard("sklearn", "x", "classification", "y", [])


class Foreign:
    def __init__(self):
        self.command = "id"


def test_equal_models_are_equal_bytes(tmp_path):
    table = fitted.wine_tables()[0]
    for name in "ab":
        forest = ensemble.RandomForestClassifier(5, random_state=0)
        fitted.model_of(table, "target", "classification", forest).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_saved_model_predicts_as_before(tmp_path):
    table = fitted.wine_tables()[1]
    model = fitted.wine_model()
    model.save(tmp_path / "m")
    frame = table.pandas().drop(columns="target")
    again = models.Model.load(tmp_path / "m").estimator().predict(frame)
    assert (again == model.estimator().predict(frame)).all()


def test_a_foreign_class_is_refused():
    model = models.Model(CARD, skops.io.dumps(Foreign()))
    with pytest.raises(models.UntrustedModel, match="Foreign"):
        model.estimator()


@pytest.mark.parametrize("function", [eval, exec, pathlib.Path.unlink])
def test_a_foreign_function_is_refused(function):
    transformer = preprocessing.FunctionTransformer(function)
    model = models.Model(CARD, skops.io.dumps(transformer))
    with pytest.raises(models.UntrustedModel):
        model.estimator()


def test_functions_of_trusted_packages_are_not_trusted_for_that():
    assert skops_files.foreign_types(["numpy.load", "builtins.eval", "os.system"]) == [
        "numpy.load",
        "builtins.eval",
        "os.system",
    ]


def test_a_pickle_is_not_a_model(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(models.UntrustedModel, match="not a model archive"):
        models.Model.load(path)


def test_a_pickle_as_weights_is_refused():
    with pytest.raises(models.UntrustedModel, match="not a skops file"):
        models.Model(CARD, pickle.dumps({"a": 1})).estimator()
