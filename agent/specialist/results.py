"""Owns what the specialist keeps of a training on disk: its request, its study, its result."""

from __future__ import annotations

import os
import pathlib

import msgspec

from agent.specialist import faults
from protocol import training

_REQUEST = "request.json"
_RESULT = "result.json"


class Results:
    """A folder with one folder for each training; a result is there whole or not at all."""

    def __init__(self, root: pathlib.Path) -> None:
        self._root = root

    def folder(self, training_id: str) -> pathlib.Path:
        """Give the folder of a training."""
        path = self._root / training_id
        path.mkdir(parents=True, exist_ok=True)
        return path

    def claim(self, request: training.TrainingRequest) -> pathlib.Path:
        """Give the training's folder; raise Conflict if its id stood for another request."""
        folder = self.folder(request.training_id)
        asked, path = _identity(request), folder / _REQUEST
        if not path.exists():
            write(path, asked)
        elif path.read_bytes() != asked:
            raise faults.Conflict(request.training_id)
        return folder

    def get(self, training_id: str) -> training.TrainingResult | None:
        """Give the stored result, where there is one."""
        path = self._root / training_id / _RESULT
        if not path.exists():
            return None
        return msgspec.json.decode(path.read_bytes(), type=training.TrainingResult)

    def put(self, result: training.TrainingResult) -> None:
        """Keep a result."""
        write(self.folder(result.training_id) / _RESULT, msgspec.json.encode(result))


def _identity(request: training.TrainingRequest) -> bytes:
    """Encode what makes two requests the same training: not who asks, nor until when."""
    same = msgspec.structs.replace(request, epoch=0, run_id=None, stage=None, deadline_s=None)
    return msgspec.json.encode(same)


def write(path: pathlib.Path, content: bytes) -> None:
    """Write a file that survives a crash whole or not at all."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
