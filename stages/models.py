"""Owns a trained model as an artifact: one zip of a card (JSON) and safely loadable weights."""

from __future__ import annotations

import importlib.metadata
import pathlib
import zipfile
from typing import Any, Self

import msgspec

from stages import skops_files, values

CARD = "model.json"
SKOPS = "model.skops"
_EPOCH = (1980, 1, 1, 0, 0, 0)


class UntrustedModel(Exception):
    """The model file holds types that are not trusted, or is not a model file at all."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model file is refused: {reason}")


class Column(msgspec.Struct, frozen=True):
    """A column the model expects: name and Arrow type."""

    name: str
    type: str


class ModelCard(msgspec.Struct, frozen=True):
    """What must be known to use the model: what it takes, what it predicts, what made it."""

    framework: str
    estimator: str
    task: str
    """`classification`, `regression` or `forecast`."""
    target: str
    columns: list[Column]
    classes: list[Any] = []
    params: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    libraries: dict[str, str] = {}
    """Versions it was trained with; a mismatch at load time is reported."""
    seed: int = 0


class Model(values.Value):
    """A trained model; the estimator is loaded only when asked for."""

    kind = "model"
    media_type = "application/vnd.codeguardian.model+zip"

    def __init__(self, card: ModelCard, payload: bytes, payload_name: str = SKOPS) -> None:
        self.card = card
        self.payload = payload
        self.payload_name = payload_name

    @classmethod
    def from_sklearn(cls, estimator: Any, card: ModelCard) -> Self:
        """Take a fitted scikit-learn estimator that takes a data frame of raw columns."""
        import skops.io

        return cls(card, skops_files.canonical(skops.io.dumps(estimator)))

    def estimator(self) -> Any:
        """Load the scikit-learn estimator.

        Raises UntrustedModel if the file names a type that `skops_files` does not trust.
        """
        import skops.io

        try:
            unknown = skops.io.get_untrusted_types(data=self.payload)
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise UntrustedModel(f"its weights are not a skops file ({error})") from error
        if foreign := skops_files.foreign_types(unknown):
            raise UntrustedModel(f"it holds types that are not trusted: {foreign[:5]}")
        try:
            return skops.io.loads(self.payload, trusted=unknown)
        except (skops.io.exceptions.UntrustedTypesFoundException, ValueError) as error:
            raise UntrustedModel(f"its weights can't be loaded safely ({error})") from error

    def save(self, path: pathlib.Path) -> None:
        """Write the zip with fixed dates, so that equal models have equal digests."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            card = msgspec.json.encode(self.card, order="sorted")
            archive.writestr(zipfile.ZipInfo(CARD, _EPOCH), card)
            archive.writestr(zipfile.ZipInfo(self.payload_name, _EPOCH), self.payload)

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Read the zip; raise UntrustedModel if it is not one of ours."""
        try:
            with zipfile.ZipFile(path) as archive:
                card = msgspec.json.decode(archive.read(CARD), type=ModelCard)
                (name,) = (n for n in archive.namelist() if n != CARD)
                return cls(card, archive.read(name), name)
        except (zipfile.BadZipFile, KeyError, ValueError, msgspec.MsgspecError) as error:
            raise UntrustedModel(f"it is not a model archive ({error})") from error


def library_versions(*names: str) -> dict[str, str]:
    """Look up the installed versions of distributions."""
    return {name: importlib.metadata.version(name) for name in names}
