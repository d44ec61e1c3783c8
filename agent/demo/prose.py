"""Owns the demo's texts: what installed libraries say of their functions, read and not imported."""

from __future__ import annotations

import ast
import csv
import importlib.metadata
import importlib.util
import pathlib
import random
import re
from collections.abc import Iterator

from agent.demo import once

LIBRARIES = {"numpy": "numpy", "pandas": "pandas", "sklearn": "scikit-learn", "torch": "torch"}
"""Import name to distribution."""
EACH = 150
_LEAST = 60
"""Characters: a shorter text could be anybody's."""
_MOST = 400
_NAMES = re.compile(
    r"\b(numpy|np|pandas|pd|sklearn|scikit-learn|torch|pytorch)\b\.?", re.IGNORECASE
)
"""A library's own name would give the answer."""
_SEED = 7


def write(folder: pathlib.Path) -> pathlib.Path:
    """Write `words.csv`, unless it is there for these very versions.

    It holds so many texts of each library, with its name as the label.
    """
    target = folder / "words.csv"
    return once.made(target, _versions(), lambda: _write(target))


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES.values()}


def _write(target: pathlib.Path) -> None:
    with target.open("w", newline="", encoding="utf-8") as sink:
        writer = csv.writer(sink)
        writer.writerow(["text", "library"])
        for library in LIBRARIES:
            writer.writerows((text, library) for text in texts(library))


def texts(library: str) -> list[str]:
    """Choose texts of a library, always the same of one version of it."""
    found = sorted(set(_all(library)))
    return random.Random(_SEED).sample(found, min(EACH, len(found)))  # noqa: S311 - no secret


def _all(library: str) -> Iterator[str]:
    spec = importlib.util.find_spec(library)
    assert spec is not None  # they are dependencies
    assert spec.origin is not None
    for path in sorted(pathlib.Path(spec.origin).parent.rglob("*.py")):
        if "tests" not in path.parts:
            yield from _said(path)


def _said(path: pathlib.Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            text = _NAMES.sub("", " ".join((ast.get_docstring(node) or "").split("\n\n")[:2]))
            text = " ".join(text.split())[:_MOST]
            if len(text) >= _LEAST:
                yield text
