"""Owns that data of the demo is made once: again only if what it is made of has changed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any


def made(target: pathlib.Path, source: Any, make: Callable[[], None]) -> pathlib.Path:
    """Make a file or folder, unless it is there and was made of the same `source` (plain data)."""
    stamp = target.with_name(f"{target.name}.source.json")
    told = json.dumps(source, sort_keys=True)
    if not (target.exists() and stamp.exists() and stamp.read_text() == told):
        target.parent.mkdir(parents=True, exist_ok=True)
        make()
        stamp.write_text(told, encoding="utf-8")
    return target
