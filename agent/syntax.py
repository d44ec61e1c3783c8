"""Owns the parsing of Python source: by one thread at a time, since CPython 3.11 mixes two up."""

from __future__ import annotations

import ast
import threading

_PARSING = threading.Lock()
"""Two at once may raise SystemError: `AST constructor recursion depth mismatch` (gh-106905)."""


def parse(source: str | bytes) -> ast.Module:
    """Parse a module's source."""
    with _PARSING:
        return ast.parse(source)
