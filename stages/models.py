"""Owns a trained model as an artifact: one zip of a card (JSON) and safely loadable weights."""

from __future__ import annotations

import hashlib
import pathlib
import zipfile
from typing import Any, Self

import msgspec

from stages import cards, skops_files, values
from stages.frameworks import adapters, base

CARD = "model.json"
SKOPS = "model.skops"
_EPOCH = (1980, 1, 1, 0, 0, 0)

Column = cards.Column
ModelCard = cards.ModelCard
UntrustedModel = cards.UntrustedModel
library_versions = cards.library_versions


class Model(values.Value):
    """A trained model of any framework; it is loaded only when asked for."""

    kind = "model"
    media_type = "application/vnd.codeguardian.model+zip"

    def __init__(self, card: ModelCard, payload: bytes, payload_name: str = SKOPS) -> None:
        self.card = card
        self.payload = payload
        self.payload_name = payload_name

    @classmethod
    def from_sklearn(cls, estimator: Any, card: ModelCard) -> Self:
        """Take a fitted scikit-learn estimator that takes a data frame of raw columns."""
        return cls(card, skops_files.dump(estimator))

    def estimator(self) -> base.Predictor:
        """Load what predicts a data frame of raw columns.

        Raises UntrustedModel if the weights are not what the framework loads safely, and
        faults.OtherVersion if they are of another major version.
        """
        return adapters.of(self.card).load(self.card, self.payload)

    def blank(self) -> Any:
        """Load an unfitted copy, to fit on folds. Raises faults.NoRefit where there is none."""
        return adapters.of(self.card).blank(self.card, self.payload)

    def export(self, path: pathlib.Path, signature: Any) -> None:
        """Write the folder that MLflow's own tools read."""
        adapters.of(self.card).export(self.card, self.payload, path, signature)

    def save(self, path: pathlib.Path) -> None:
        """Write the zip with fixed dates, so that equal models have equal digests."""
        card = msgspec.structs.replace(self.card, digest=_sha(self.payload))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            encoded = msgspec.json.encode(card, order="sorted")
            archive.writestr(zipfile.ZipInfo(CARD, _EPOCH), encoded)
            archive.writestr(zipfile.ZipInfo(self.payload_name, _EPOCH), self.payload)

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Read the zip; raise UntrustedModel if it is not one of ours, or was changed."""
        try:
            with zipfile.ZipFile(path) as archive:
                card = msgspec.json.decode(archive.read(CARD), type=ModelCard)
                (name,) = (n for n in archive.namelist() if n != CARD)
                payload = archive.read(name)
        except (zipfile.BadZipFile, KeyError, ValueError, msgspec.MsgspecError) as error:
            raise UntrustedModel(f"it is not a model archive ({error})") from error
        if card.digest and card.digest != _sha(payload):
            msg = "its weights are not those of its card: their digest is another"
            raise UntrustedModel(msg)
        return cls(card, payload, name)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
