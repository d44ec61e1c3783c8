"""Owns what is said of an object store elsewhere that cannot be reached."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from agent.artifacts import errors


class Guarded:
    """A remote file system whose failures are all of one type, but for a file that is missing.

    Each of them has exceptions of its own for a server that is down, and most are no OSError.
    """

    def __init__(self, files: Any, uri: str) -> None:
        self._files = files
        self._uri = uri

    def __getattr__(self, name: str) -> Any:
        """Give a method of the file system."""
        found = getattr(self._files, name)
        return functools.partial(self._call, found) if callable(found) else found

    def put_file(self, *given: Any) -> None:
        """Copy a file there; what is missing here is the bucket."""
        try:
            self._call(self._files.put_file, *given)
        except FileNotFoundError as error:
            raise errors.Unreachable(self._uri, str(error)) from error

    def _call(self, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        try:
            return method(*given, **named)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise errors.Unreachable(self._uri, str(error) or type(error).__name__) from error
