"""Owns what may be inside a skops file, and its canonical form (equal models, equal bytes)."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import zipfile
from typing import Any

from stages import cards

PACKAGES = ("sklearn.", "lightgbm.sklearn.", "xgboost.sklearn.")
"""Classes may come from these if they are defined there: a module shows others' classes too."""
_CALLBACKS = "sklearn.callback."
"""Not from here: a callback connects to where it is told, and unpickles what comes."""
_SPARSE = ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
CLASSES = (
    *("builtins.object", "builtins.bytes", "builtins.bytearray", "collections.OrderedDict"),
    "numpy.dtype",
    *(f"scipy.sparse._{kind}.{kind}_{form}" for kind in _SPARSE for form in ("array", "matrix")),
    *("lightgbm.basic.Booster", "xgboost.core.Booster"),
)
"""Classes that are trusted by name, of packages that have others which open, write or delete files.

skops knows NumPy's arrays, numbers and random states itself.
"""
_SCORES = "sklearn.feature_selection._univariate_selection."
FUNCTIONS = (
    *("numpy.log1p", "numpy.expm1", "numpy.sqrt", "numpy.log", "numpy.exp"),
    *(_SCORES + score for score in ("f_classif", "f_regression", "chi2")),
)
"""Functions and ufuncs may be these; a file that names `builtins.eval` is refused."""
_SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def foreign_types(unknown: list[str]) -> list[str]:
    """Sort out the type names that may not be loaded, of those that skops does not know."""
    return [name for name in unknown if not _trusted(name)]


def _trusted(name: str) -> bool:
    if name in FUNCTIONS or name in CLASSES:
        return True
    return name.startswith(PACKAGES) and _harmless(_resolve(name))


def _harmless(found: Any) -> bool:
    """Tell whether it is a class of its package's own that does nothing when it is forgotten."""
    if not inspect.isclass(found) or any("__del__" in vars(each) for each in found.__mro__):
        return False
    home = f"{found.__module__}."
    return home.startswith(PACKAGES) and not home.startswith(_CALLBACKS)


def _resolve(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None


def dump(estimator: Any) -> bytes:
    """Write an estimator as a canonical skops file."""
    import skops.io

    return canonical(skops.io.dumps(estimator))


def load(payload: bytes) -> Any:
    """Read an estimator; raise UntrustedModel if the file names a type that is not trusted."""
    import skops.io

    try:
        unknown = skops.io.get_untrusted_types(data=payload)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise cards.UntrustedModel(f"its weights are not a skops file ({error})") from error
    if foreign := foreign_types(unknown):
        raise cards.UntrustedModel(f"it holds types that are not trusted: {foreign[:5]}")
    try:
        return skops.io.loads(payload, trusted=unknown)
    except (skops.io.exceptions.UntrustedTypesFoundException, ValueError) as error:
        raise cards.UntrustedModel(f"its weights can't be loaded safely ({error})") from error


def canonical(payload: bytes) -> bytes:
    """Rewrite a skops file without what differs from one dump to the next.

    skops names objects and array files by memory address, and dates the zip's members.
    """
    with zipfile.ZipFile(io.BytesIO(payload)) as source:
        files = {name: source.read(name) for name in source.namelist()}
    schema = json.loads(files.pop(_SCHEMA))
    renaming = _Renaming(files)
    renaming.visit(schema)
    return _zip(renaming.renamed(), schema)


def _zip(files: dict[str, bytes], schema: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(files):
            target.writestr(zipfile.ZipInfo(name, _EPOCH), files[name])
        text = json.dumps(schema, separators=(",", ":"))
        target.writestr(zipfile.ZipInfo(_SCHEMA, _EPOCH), text)
    return buffer.getvalue()


class _Renaming:
    """Numbers objects and files in the order in which the schema names them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self._ids: dict[int, int] = {}
        self._names: dict[str, str] = {}

    def visit(self, node: Any) -> None:
        """Rename everything below a node, in place."""
        if isinstance(node, list):
            for child in node:
                self.visit(child)
        elif isinstance(node, dict):
            self._rename(node)
            for child in node.values():
                self.visit(child)

    def _rename(self, node: dict[str, Any]) -> None:
        if isinstance(identity := node.get("__id__"), int):
            node["__id__"] = self._ids.setdefault(identity, len(self._ids) + 1)
        name = node.get("file")
        if isinstance(name, str) and name in self._files:
            fresh = f"{len(self._names):06d}.{name.rpartition('.')[2]}"
            node["file"] = self._names.setdefault(name, fresh)

    def renamed(self) -> dict[str, bytes]:
        """Give the files that the schema names, under their new names."""
        return {new: self._files[old] for old, new in self._names.items()}
