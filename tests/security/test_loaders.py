"""Nothing is ever unpickled, and a model file that is not what it says is refused."""

from __future__ import annotations

import ast
import bz2
import gc
import gzip
import io
import json
import pathlib
import pickle
import tarfile
import zipfile

import joblib
import msgspec
import numpy as np
import pytest
import skops.io
import torch
from sklearn import linear_model

from agent.artifacts import store
from agent.audit import pickles
from stages import kit, models, skops_files, values
from stages.frameworks import estimators
from stages.register import champions, model
from tests.stages import fitted

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = ("agent", "protocol", "stages")
CARD = models.ModelCard("sklearn", "x", "classification", "y", [])

LOADERS = {
    *("pickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "jsonpickle"),
    *("joblib.load", "torch.load", "numpy.load", "np.load", "numpy.fromfile", "pd.read_pickle"),
    *("pandas.read_pickle", "pd.read_hdf", "torch.jit.load", "torch.package", "xgboost.Booster"),
    *("mlflow.pyfunc.load_model", "mlflow.sklearn.load_model", "mlflow.pytorch.load_model"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "compile", "__import__"),
    *("keras.models.load_model", "os.system", "runpy.run_path", "runpy.run_module"),
}
"""What can run what it reads."""
IMPORTERS = {
    "agent/execution/worker.py",  # modules that the operator names
    "agent/catalog.py",  # the same
    "stages/features/encoders.py",  # from its own list
    "stages/frameworks/estimators.py",  # from its own list
    "stages/registry.py",  # our own folders, and entry points of what is installed
    "stages/skops_files.py",  # classes of trusted packages alone
    "stages/ingest/arrow_sessions.py",  # ADBC's drivers, by a name without dots
}
"""Modules that import by a name that they are given."""


class Exploit:
    """Touches a file when it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return pathlib.Path.touch, (self.witness,)


def sources():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def dotted(node):
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def used(tree):
    """Name what a module imports and calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module or ""
        elif isinstance(node, ast.Call):
            yield dotted(node.func)
            yield from (
                "allow_pickle" for word in node.keywords
                if word.arg == "allow_pickle" and getattr(word.value, "value", True)
            )  # fmt: skip


def test_no_module_of_ours_loads_what_can_run():
    found = [
        (path, name)
        for path, tree in sources()
        for name in used(tree)
        if name in LOADERS | {"allow_pickle"} or name.partition(".")[0] in {"pickle", "cloudpickle"}
    ]
    assert not found


def test_the_scan_finds_what_it_looks_for():
    text = "import pickle\nfrom joblib import load\nnp.load(f, allow_pickle=True)\neval(x)"
    found = set(used(ast.parse(text)))
    assert {"pickle", "joblib.load", "np.load", "allow_pickle", "eval"} <= found


def test_modules_are_imported_by_given_names_only_where_it_is_known():
    found = {
        path for path, tree in sources() for name in used(tree) if name.endswith("import_module")
    }
    assert found == IMPORTERS


def archive_of(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(models.CARD, json.dumps({
            "framework": "sklearn", "estimator": "x", "task": "classification", "target": "y",
            "columns": [],
        }))  # fmt: skip
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def torch_pickle(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def joblib_dump(thing):
    buffer = io.BytesIO()
    joblib.dump(thing, buffer, compress=3)
    return buffer.getvalue()


@pytest.fixture
def witness(tmp_path):
    """Give a file that is there if anything was unpickled; see that it is not."""
    path = tmp_path / "unpickled"
    yield path
    assert not path.exists()


MAKERS = {
    "model.pkl": pickle.dumps,
    "model.skops": pickle.dumps,
    "model.joblib": joblib_dump,
    "model.safetensors": torch_pickle,
    "model.pt": torch_pickle,
    "old.skops": lambda thing: pickle.dumps(thing, protocol=0),
}


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_with_a_pickle_for_weights_is_refused(tmp_path, witness, name):
    data = MAKERS[name](Exploit(witness))
    path = archive_of(tmp_path / "m.zip", {name: data})
    with pytest.raises(models.UntrustedModel, match=r"the model file is refused: .*skops"):
        models.Model.load(path).estimator()
    with path.open("rb") as file:
        assert pickles.reasons(file)


def test_an_archive_with_a_pickle_beside_the_weights_is_refused(tmp_path, witness):
    members = {
        "model.skops": fitted.wine_model().payload,
        "extra.pkl": pickle.dumps(Exploit(witness)),
    }
    with pytest.raises(models.UntrustedModel, match="not a model archive"):
        models.Model.load(archive_of(tmp_path / "m.zip", members))


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_a_pickle_in_the_place_of_a_model_is_refused(tmp_path, witness, maker):
    path = tmp_path / "m.safetensors"
    path.write_bytes(maker(Exploit(witness)))
    with pytest.raises(models.UntrustedModel, match="the model file is refused"):
        models.Model.load(path)


class Stranger:
    def __init__(self):
        self.command = "id"


@pytest.mark.parametrize("thing", [Stranger(), pathlib.Path("x").unlink, eval, np.load])
def test_a_skops_file_with_untrusted_types_is_refused(tmp_path, thing):
    path = archive_of(tmp_path / "m.zip", {"model.skops": skops.io.dumps(thing)})
    with pytest.raises(models.UntrustedModel, match="types that are not trusted"):
        models.Model.load(path).estimator()


def test_a_skops_file_that_would_delete_a_folder_is_refused(tmp_path):
    """NumPy's source of data removes its folder when it is forgotten, if it says that it is new."""
    folder = tmp_path / "precious"
    folder.mkdir()
    source = np.lib.npyio.DataSource(folder)
    source._istmpdest = True
    payload = skops.io.dumps(source)
    source._istmpdest = False
    with pytest.raises(models.UntrustedModel, match="DataSource"):
        models.Model(CARD, payload).estimator()
    gc.collect()
    assert folder.is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "numpy.lib.npyio.DataSource",
        "numpy.lib.npyio.NpzFile",
        "numpy.lib._npyio_impl.NpzFile",
        "numpy.memmap",
        "numpy.f2py.__main__.main",
        "scipy.io._netcdf.netcdf_file",
        "sklearn.callback._transport.Connection",  # of multiprocessing, shown by scikit-learn
        "sklearn.callback._transport.ListenerHandle",
        "sklearn.callback.ScoringMonitor",
        "sklearn.datasets._base.Path",
        "sklearn.datasets._svmlight_format_io.closing",
        "sklearn.datasets._openml.Any",
        "sklearn.tree._tree.no_such_class",
    ],
)
def test_what_a_trusted_package_merely_shows_is_not_trusted(name):
    assert skops_files.foreign_types([name]) == [name]


@pytest.mark.filterwarnings(
    "ignore::FutureWarning",  # scikit-learn's own, of classes and defaults that it will change
    "ignore::sklearn.exceptions.ConvergenceWarning",  # there is nothing to learn from chance
)
@pytest.mark.parametrize("name", sorted(estimators.known()))
def test_every_estimator_on_offer_fits_in_a_trusted_file(name):
    drawn = np.random.default_rng(0)
    rows = np.abs(drawn.normal(size=(60, 1 if name == "IsotonicRegression" else 4)))
    made = estimators.build(name, {}, seed=0, cpu=1)
    classes = estimators.is_classifier(type(made))
    target = drawn.integers(0, 2, 60) if classes else drawn.uniform(0.1, 1, 60)
    fitted_one = made.fit(rows, target)
    again = models.Model.from_sklearn(fitted_one, CARD).estimator()
    assert (again.predict(rows) == fitted_one.predict(rows)).all()


def test_a_skops_file_whose_arrays_are_pickled_is_refused(tmp_path, witness):
    """The schema names an array; the file that it names holds objects."""
    payload = skops.io.dumps(linear_model.LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]))
    buffer = io.BytesIO()
    np.save(buffer, np.array([Exploit(witness)], dtype=object), allow_pickle=True)
    forged = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as old, zipfile.ZipFile(forged, "w") as new:
        for name in old.namelist():
            new.writestr(name, buffer.getvalue() if name.endswith(".npy") else old.read(name))
    forged_path = archive_of(tmp_path / "m.zip", {"model.skops": forged.getvalue()})
    with pytest.raises(models.UntrustedModel, match="the model file is refused"):
        models.Model.load(forged_path).estimator()


def test_a_stored_model_that_is_a_pickle_is_refused_when_it_is_read(tmp_path, witness):
    kept = store.Store((tmp_path / "store").as_uri(), tmp_path / "copies").make()

    text = kept.put(values.Text(pickle.dumps(Exploit(witness), protocol=0).decode()))
    with pytest.raises(models.UntrustedModel):
        kept.get(msgspec.structs.replace(text, kind="model"))


def tar_of(name, data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def numpy_of(thing):
    buffer = io.BytesIO()
    np.save(buffer, thing, allow_pickle=True)
    return buffer.getvalue()


PLAIN = {"a": [1, 2.5, "x"]}
UNSAFE = {
    "0": pickle.dumps(Exploit(pathlib.Path("x")), protocol=0),
    "1": pickle.dumps(Exploit(pathlib.Path("x")), protocol=1),
    **{str(number): pickle.dumps(PLAIN, protocol=number) for number in range(2, 6)},
    "gzip": gzip.compress(pickle.dumps(PLAIN)),
    "bz2": bz2.compress(pickle.dumps(PLAIN)),
    "joblib": joblib_dump(PLAIN),
    "torch": torch_pickle(PLAIN),
    "old torch": tar_of("pickle", pickle.dumps(PLAIN)),
    "zip": zip_of("innocent.json", pickle.dumps(PLAIN)),
    "zip in zip": zip_of("inner.zip", zip_of("data", pickle.dumps(PLAIN))),
    "numpy": numpy_of(np.array([PLAIN], dtype=object)),
    "npz": zip_of("arr.npy", numpy_of(np.array([PLAIN], dtype=object))),
}
SAFE = {
    "json": json.dumps(PLAIN).encode(),
    "text": b"(lambda is a word) coming. 0 days",
    "numpy": numpy_of(np.arange(10.0)),
    "zip": zip_of("a.json", b"{}"),
    "nothing": b"",
    "skops": skops.io.dumps(linear_model.LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])),
    "safetensors": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
}


@pytest.mark.parametrize("data", UNSAFE.values(), ids=UNSAFE)
def test_a_pickle_is_known_by_its_bytes(data):
    assert pickles.reasons(io.BytesIO(data), "x")


@pytest.mark.parametrize("data", SAFE.values(), ids=SAFE)
def test_what_is_no_pickle_is_not_taken_for_one(data):
    assert not pickles.reasons(io.BytesIO(data), "x")


def require_no_pickle(folder):
    """See that no file below a folder holds a pickle, and that there are files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "model.skops" for path in files)
    found = []
    for path in files:
        with path.open("rb") as file:
            found += pickles.reasons(file, str(path))
    assert not found


def test_a_registered_model_holds_no_pickle(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "work").mkdir()
    context = kit.Context(workdir=tmp_path / "work", services=kit.Services(tracking_uri=uri))
    model.RegisterModel(name="wine").run(fitted.wine_model(), None, context)
    require_no_pickle(tmp_path / "mlflow-artifacts")
    described = next((tmp_path / "mlflow-artifacts").rglob("MLmodel")).read_text()
    assert "skops" in described
    assert "cloudpickle" not in described
    assert champions.champion(uri, "wine").model.estimator()
