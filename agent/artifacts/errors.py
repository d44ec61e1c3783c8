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


class ArtifactTooLarge(ArtifactError):
    """An artifact has more bytes than its run may store."""

    def __init__(self, kind: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the {kind} takes {size_bytes} bytes; the requester may store {limit_bytes} in one"
        )
        self.kind = kind
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class ForeignArtifact(ArtifactError):
    """A reference leads outside of the configured store."""

    def __init__(self, uri: str, store: str) -> None:
        super().__init__(f"artifact {uri} is not in the store {store}: it is not read")
        self.uri = uri
        self.store = store


class StoreError(ArtifactError):
    """The store cannot do it, whatever the artifact."""

    said = "the bus's object store {} cannot do it"

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"{self.said.format(store)}: {reason}")
        self.store = store
        self.reason = reason


class StoreAway(StoreError):
    """The bus, or the bucket, cannot be reached at the moment."""

    said = "the bus's object store {} cannot be reached"


class Unreachable(StoreAway):
    """The folder, or the object store elsewhere, cannot be reached at the moment."""

    said = "the artifact store {} cannot be reached"


class StoreFull(StoreError):
    """No more fits into the bucket, or onto the bus's disks."""

    said = "the bus's object store {} is full"


class StoreRefused(StoreError):
    """The bus does not let this user do it."""

    said = "the bus's object store {} refuses"


class NoSuchStore(ArtifactError):
    """A URI leads to no store, or to one of a bus that is not known here."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"{uri!r} is not the URI of a bucket of the bus that is reached from here")
        self.uri = uri
