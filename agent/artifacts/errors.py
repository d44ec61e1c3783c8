"""Owns what can be wrong with an artifact."""

from __future__ import annotations


class ArtifactError(Exception):
    """An artifact cannot be stored or read."""


class ArtifactMissing(ArtifactError):
    """The store has no such artifact."""

    def __init__(self, digest: str, uri: str) -> None:
        super().__init__(f"artifact {digest} is not at {uri}")
        self.digest = digest
        self.uri = uri


class ArtifactCorrupt(ArtifactError):
    """The stored bytes are not the ones that were written."""

    def __init__(self, digest: str, uri: str, found: str) -> None:
        super().__init__(f"artifact {digest} at {uri} has changed: its bytes digest to {found}")
        self.digest = digest
        self.uri = uri
        self.found = found


class ForeignArtifact(ArtifactError):
    """A reference leads outside of the configured store."""

    def __init__(self, uri: str, store: str) -> None:
        super().__init__(f"artifact {uri} is not in the store {store}: it is not read")
        self.uri = uri
        self.store = store
