"""Owns how far the candidates of a training are: a file for each, to go on from after a crash."""

from __future__ import annotations

import asyncio
import pathlib
import shutil

from agent.specialist import results


class Checkpoints:
    """A folder of checkpoints; each is there whole or not at all."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder / "checkpoints"

    async def get(self, candidate: int) -> bytes | None:
        """Read a candidate's latest, if there is one."""
        path = self._path(candidate)
        return await asyncio.to_thread(path.read_bytes) if path.exists() else None

    async def put(self, candidate: int, content: bytes) -> None:
        """Keep a candidate's latest in place of the one before."""
        await asyncio.to_thread(self._put, candidate, content)

    def _put(self, candidate: int, content: bytes) -> None:
        self._folder.mkdir(exist_ok=True)
        results.write(self._path(candidate), content)

    async def clear(self) -> None:
        """Forget them all: the training has ended in a model."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def _path(self, candidate: int) -> pathlib.Path:
        return self._folder / f"{candidate}.safetensors"
