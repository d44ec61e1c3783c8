"""Owns the line of a file at which a path into a request stands."""

from __future__ import annotations

import re
from typing import Any

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def line(text: str, path: str) -> int | None:
    """Give the line, counted from one, of as much of a path as the YAML or JSON has."""
    import yaml

    try:
        node = yaml.compose(text)
    except yaml.YAMLError:
        return None
    found = None
    for name, index in _STEP.findall(path):
        inner = _named(node, name) if name else _numbered(node, int(index))
        if inner is None and name == "pipeline":
            continue  # a file may be the pipeline itself
        if inner is None:
            break
        found, node = inner
    return found


def _named(node: Any, name: str) -> tuple[int, Any] | None:
    if getattr(node, "id", "") != "mapping":
        return None
    pairs = ((key, value) for key, value in node.value if key.value == name)
    return next(((key.start_mark.line + 1, value) for key, value in pairs), None)


def _numbered(node: Any, index: int) -> tuple[int, Any] | None:
    if getattr(node, "id", "") != "sequence" or index >= len(node.value):
        return None
    return node.value[index].start_mark.line + 1, node.value[index]
