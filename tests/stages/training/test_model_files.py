"""Owns the claims about model files: canonical, and closed to foreign types."""

from __future__ import annotations

import pathlib
import pickle
import zipfile

import msgspec
import pytest
import skops.io
from sklearn import ensemble, preprocessing

from stages import models, skops_files
from stages.frameworks import faults
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


def test_weights_that_are_not_those_of_the_card_are_refused(tmp_path):
    fitted.wine_model().save(tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "m") as archive:
        card = archive.read(models.CARD)
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr(models.CARD, card)
        archive.writestr(models.SKOPS, fitted.wine_model(0.5).payload)
    with pytest.raises(models.UntrustedModel, match="digest"):
        models.Model.load(tmp_path / "other")


def test_a_model_of_an_unknown_framework_is_refused():
    card = msgspec.structs.replace(CARD, framework="cobol")
    with pytest.raises(models.UntrustedModel, match="no framework 'cobol'"):
        models.Model(card, b"").estimator()


def test_a_model_of_another_major_version_says_what_to_do():
    model = fitted.wine_model()
    card = msgspec.structs.replace(model.card, libraries={"scikit-learn": "0.24.2"})
    with pytest.raises(faults.OtherVersion, match=r"scikit-learn 0\.24\.2") as raised:
        models.Model(card, model.payload).estimator()
    assert "train it anew" in raised.value.hint


def test_a_model_of_another_minor_version_is_loaded():
    model = fitted.wine_model()
    card = msgspec.structs.replace(model.card, libraries={"scikit-learn": "1.0.0"})
    assert models.Model(card, model.payload).estimator()
