"""Owns the folder that MLflow's tools show of a model that MLflow itself can't load safely."""

from __future__ import annotations

import pathlib
from typing import Any

import msgspec

from stages import cards


def plain(
    card: cards.ModelCard, payload: bytes, path: pathlib.Path, signature: Any, name: str
) -> None:
    """Write weights and card as files, with MLflow's description beside; nothing is pickled."""
    from mlflow import models

    path.mkdir(parents=True)
    (path / name).write_bytes(payload)
    (path / "model.json").write_bytes(msgspec.json.encode(card, order="sorted"))
    lines = sorted(f"{library}=={version}" for library, version in card.libraries.items())
    (path / "requirements.txt").write_text("\n".join(lines) + "\n")
    described = models.Model(signature=signature)
    described.add_flavor("safetensors", framework=card.framework, data=name, card="model.json")
    described.save(str(path / "MLmodel"))
