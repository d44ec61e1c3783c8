"""Owns the versions that run on for a while after another has taken their place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Warm:
    """Keeps one version of a model, at most, until its time is over."""

    def __init__(self, let_go: Callable[[str], None]) -> None:
        self._let_go = let_go
        self._kept: dict[str, tuple[str, asyncio.TimerHandle]] = {}

    def keep(self, name: str, key: str, for_s: float) -> None:
        """Keep a version of a model, and let it go afterwards."""
        timer = asyncio.get_running_loop().call_later(for_s, self._over, name)
        self._kept[name] = key, timer

    def take(self, name: str, only: str | None = None) -> str | None:
        """Give the version that is kept of a model, or None; it is not let go any more."""
        key, timer = self._kept.get(name, (None, None))
        if timer is None or only not in {None, key}:
            return None
        timer.cancel()
        del self._kept[name]
        return key

    def close(self) -> None:
        """Forget all."""
        for name in list(self._kept):
            self.take(name)

    def _over(self, name: str) -> None:
        key, _ = self._kept.pop(name)
        self._let_go(key)
