"""Owns which stages and kinds of value there are: the built-in rooms, and installed plugins."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import pkgutil
import types
from collections.abc import Iterator, Mapping

import stages as home
from stages import kit, values

GROUP = "ml_pipeline_manager.stages"
"""The entry point group under which another distribution names its module of stages."""

_found: dict[str, kit.Definition] = {}
_broken: dict[str, str] = {}
_kinds: dict[str, type[values.Value]] = {}


class UnknownStage(LookupError):
    """No stage has this name."""

    def __init__(self, name: str, near: tuple[str, ...]) -> None:
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        super().__init__(f"there is no stage {name!r}{hint}")
        self.name = name
        self.near = near


class NameTaken(ValueError):
    """Two classes claim the same stage name."""

    def __init__(self, name: str, holder: str, claimant: str) -> None:
        super().__init__(f"stage {name!r} is {holder}, so {claimant} cannot be it too")
        self.name = name
        self.holder = holder
        self.claimant = claimant


def stages() -> Mapping[str, kit.Definition]:
    """List every stage by name."""
    _discover()
    return types.MappingProxyType(dict(sorted(_found.items())))


def get(name: str) -> kit.Definition:
    """Find a stage by its name, or raise UnknownStage with names that look alike."""
    known = stages()
    if name not in known:
        raise UnknownStage(name, tuple(difflib.get_close_matches(name, known, n=3)))
    return known[name]


def kinds() -> Mapping[str, type[values.Value]]:
    """List every kind of value by name."""
    _discover()
    found = {cls.kind: cls for cls in _descendants(values.Value) if "kind" in vars(cls)}
    return types.MappingProxyType(dict(sorted(found.items())))


def kind(name: str) -> type[values.Value]:
    """Find a kind of value by its name; raises KeyError."""
    if name not in _kinds:
        _kinds.update(kinds())
    return _kinds[name]


def broken() -> Mapping[str, str]:
    """List the plugins that could not be loaded: entry point to what went wrong."""
    _discover()
    return types.MappingProxyType(dict(_broken))


def register(module: types.ModuleType) -> tuple[kit.Definition, ...]:
    """Take in the stages that a module defines itself: all of them, or none on a clash."""
    own = tuple(_defined_in(module))
    claimed: dict[str, kit.Definition] = {}
    for definition in own:
        holder = claimed.get(definition.name) or _found.get(definition.name)
        if holder is not None and holder.cls is not definition.cls:
            raise NameTaken(definition.name, _path(holder), _path(definition))
        claimed[definition.name] = definition
    _found.update(claimed)
    return own


@functools.cache
def _discover() -> None:
    for module in pkgutil.walk_packages(home.__path__, f"{home.__name__}."):
        if module.name != __name__:
            register(importlib.import_module(module.name))
    for point in importlib.metadata.entry_points(group=GROUP):
        _plug_in(point)


def _plug_in(point: importlib.metadata.EntryPoint) -> None:
    try:
        register(importlib.import_module(point.value.partition(":")[0]))
    except Exception as fault:  # noqa: BLE001 - another's code may fail in any way
        _broken[point.name] = f"{type(fault).__name__}: {fault}"


def _defined_in(module: types.ModuleType) -> Iterator[kit.Definition]:
    for thing in vars(module).values():
        if isinstance(thing, type) and thing.__module__ == module.__name__:
            definition = vars(thing).get("__stage__")
            if isinstance(definition, kit.Definition):
                yield definition


def _path(definition: kit.Definition) -> str:
    return f"{definition.cls.__module__}.{definition.cls.__qualname__}"


def _descendants(cls: type[values.Value]) -> Iterator[type[values.Value]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)
