"""Owns the digest of a stage's code: its module, and all that it uses of its own package."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import pathlib
import secrets
import sys
from collections.abc import Iterable

import msgspec

from agent import syntax
from stages import kit

_CODE = {".py", ".pyc", ".pyi", ".so", ".pyd"}


@functools.cache
def code_digest(definition: kit.Definition) -> str:
    """Digest a stage's module and, transitively, what it imports from its own package.

    Imports inside functions count too, and so do files that are no Python but lie beside a
    module, as templates do. Nothing is imported to find out.
    """
    module = definition.cls.__module__
    root = module.partition(".")[0]
    seen: dict[str, str] = {}
    waiting = {module}
    while waiting:
        name = waiting.pop()
        source = _source(name)
        if source is not None:
            seen[name] = _sha(source)
            seen |= _data_beside(name)
            waiting |= {found for found in _imported(name, root) if found not in seen}
    # Code that cannot be read may have changed: what it made is reused by this process alone.
    return _sha(msgspec.json.encode(seen or secrets.token_hex(), order="sorted"))[:16]


def freeze(definitions: Iterable[kit.Definition]) -> None:
    """Read the sources of stages now, as they were loaded.

    A running process runs the code that it loaded, whatever has become of the files since.
    """
    roots = {definition.cls.__module__.partition(".")[0] for definition in definitions}
    for name in [*sys.modules]:
        if name.partition(".")[0] in roots and _source(name) is not None:
            _data_beside(name)


@functools.cache
def _source(module: str) -> bytes | None:
    file = _file(module)
    return file.read_bytes() if file is not None else None


@functools.cache
def _file(module: str) -> pathlib.Path | None:
    """Find a module's source without importing its parents, which may be heavy."""
    root, *rest = module.split(".")
    top = _top(root)
    if top is None:
        return None
    if not rest:
        origin = top.origin or ""
        return pathlib.Path(origin) if origin.endswith(".py") else None
    for folder in top.submodule_search_locations or ():
        place = pathlib.Path(folder, *rest)
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                return file
    return None


@functools.cache
def _top(root: str) -> importlib.machinery.ModuleSpec | None:
    loaded = sys.modules.get(root)
    spec: importlib.machinery.ModuleSpec | None = getattr(loaded, "__spec__", None)
    return spec if loaded is not None else importlib.util.find_spec(root)


@functools.cache
def _imported(module: str, root: str) -> frozenset[str]:
    """Name the modules of the package `root` that a module imports anywhere in its text."""
    source, file = _source(module), _file(module)
    if source is None or file is None:
        return frozenset()
    try:
        tree = syntax.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()  # it cannot be imported, and so imports nothing
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (start := _start(node, package)):
            named |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    inside = (name for name in named if name.partition(".")[0] == root)
    return frozenset(
        each for name in inside for each in _with_parents(name) if _file(each) is not None
    )


def _start(node: ast.ImportFrom, package: str) -> str:
    """Resolve where a `from … import` starts; empty where it leads out of the package."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])]) if kept else ""


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _data_beside(module: str) -> dict[str, str]:
    """Digest the files beside a module of a package that are no Python."""
    file = _file(module)
    if file is None or (module in {file.stem, "__main__"}):
        return {}  # a module outside of any package: what is beside it is not its own
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return _data_in(package, file.parent)


@functools.cache
def _data_in(package: str, folder: pathlib.Path) -> dict[str, str]:
    """Digest the data of a folder once, for all of its modules, loaded or not."""
    return {
        f"{package}/{path.name}": _sha(path.read_bytes())
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix not in _CODE and path.name[0] not in ".#"
    }


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
