"""Owns the artifact store: content-addressed blobs behind an fsspec URI, whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from agent.artifacts import errors
from protocol import artifacts
from stages import registry, values

_BLOBS = "sha256"


class Store:
    """Blobs under `<root>/sha256/ab/<digest>`. Equal content is stored once.

    `local` is a folder of this machine: for temporary files, and for copies of remote blobs. A
    local store hands its own files out, so a table is mapped from where it lies.
    """

    def __init__(self, uri: str, local: pathlib.Path) -> None:
        self.uri = uri.rstrip("/")
        self._fs, self._root = fsspec.core.url_to_fs(self.uri)
        self._local = local
        self._is_local = "file" in _protocols(self._fs)
        self._verified: dict[str, tuple[int, int, int]] = {}

    def put(self, value: values.Value) -> artifacts.ArtifactRef:
        """Store a value."""
        with self._scratch() as path:
            value.save(path)
            return self._put_file(path, value)

    def get(self, ref: artifacts.ArtifactRef) -> values.Value:
        """Read a value back.

        Raises ArtifactMissing, ArtifactCorrupt, or ForeignArtifact for a ref of another store.
        """
        kind = registry.kinds()[ref.kind]
        return kind.load(self.path(ref))

    def path(self, ref: artifacts.ArtifactRef) -> pathlib.Path:
        """Give a local file with the artifact's bytes, verified against its digest."""
        self._check_own(ref)
        path = self._local_path(ref)
        if not path.exists():
            self._fetch(ref, path)
        self._verify(ref, path)
        return path

    def holds(self, ref: artifacts.ArtifactRef) -> bool:
        """Say whether the blob is there with its right size; its bytes are checked when read."""
        self._check_own(ref)
        with contextlib.suppress(FileNotFoundError):
            return int(self._fs.size(self._place(ref.digest))) == ref.size_bytes
        return False

    def digests(self) -> Iterator[tuple[str, float]]:
        """List stored blobs as (digest, age as a POSIX time of last change)."""
        base = f"{self._root}/{_BLOBS}"
        if not self._fs.exists(base):
            return
        for path, info in self._fs.find(base, detail=True).items():
            yield f"sha256:{path.rsplit('/', 1)[-1]}", _changed(info)

    def delete(self, digest: str) -> None:
        """Remove a blob."""
        self._verified.pop(digest, None)
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._place(digest))

    def write_record(self, name: str, data: bytes) -> None:
        """Keep a small named document beside the blobs, replacing one of that name at once."""
        with self._scratch() as path:
            path.write_bytes(data)
            self._deliver(path, f"{self._root}/{name}")

    def read_record(self, name: str) -> bytes | None:
        """Read a named document."""
        with contextlib.suppress(FileNotFoundError):
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        return None

    def records(self, folder: str) -> list[str]:
        """Name the documents of a folder, newest first."""
        base = f"{self._root}/{folder}"
        if not self._fs.exists(base):
            return []
        found = self._fs.find(base, detail=True).items()
        by_age = sorted(found, key=lambda item: _changed(item[1]), reverse=True)
        return [folder + path.split(base, 1)[1] for path, _ in by_age]

    def remove_record(self, name: str) -> None:
        """Remove a named document."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{name}")

    def _put_file(self, path: pathlib.Path, value: values.Value) -> artifacts.ArtifactRef:
        digest = f"sha256:{_digest(path)}"
        place = self._place(digest)
        size = path.stat().st_size
        if not self._fs.exists(place) or self._fs.size(place) != size:
            self._deliver(path, place)
        return artifacts.ArtifactRef(
            kind=value.kind,  # type: ignore[arg-type] - the registry's kinds are the contract's
            digest=digest,
            uri=f"{self.uri}/{_BLOBS}/{digest[7:9]}/{digest[7:]}",
            media_type=value.media_type,
            size_bytes=size,
            rows=value.rows(),
            schema=_schema(value),
        )

    def _deliver(self, path: pathlib.Path, place: str) -> None:
        """Move a finished file to its name: a reader sees all of it or nothing."""
        if not self._is_local:
            self._fs.put_file(str(path), place)
            return
        target = pathlib.Path(place)
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(target)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[pathlib.Path]:
        """Give a temporary file name on the file system that the blobs are renamed into."""
        folder = pathlib.Path(self._root) / "tmp" if self._is_local else self._local / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        path = pathlib.Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _place(self, digest: str) -> str:
        return f"{self._root}/{_BLOBS}/{digest[7:9]}/{digest[7:]}"

    def _local_path(self, ref: artifacts.ArtifactRef) -> pathlib.Path:
        if self._is_local:
            return pathlib.Path(self._place(ref.digest))
        return self._local / _BLOBS / ref.digest[7:]

    def _fetch(self, ref: artifacts.ArtifactRef, path: pathlib.Path) -> None:
        if self._is_local:
            raise errors.ArtifactMissing(ref.digest, ref.uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._scratch() as scratch:
            try:
                self._fs.get_file(self._place(ref.digest), str(scratch))
            except FileNotFoundError as error:
                raise errors.ArtifactMissing(ref.digest, ref.uri) from error
            scratch.replace(path)

    def _verify(self, ref: artifacts.ArtifactRef, path: pathlib.Path) -> None:
        """Check the bytes once per process and again whenever the file has changed."""
        stat = path.stat()
        mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if self._verified.get(ref.digest) == mark:
            return
        found = f"sha256:{_digest(path)}"
        if found != ref.digest:
            if not self._is_local:
                path.unlink()  # the copy may be at fault, not the store
            raise errors.ArtifactCorrupt(ref.digest, ref.uri, found)
        self._verified[ref.digest] = mark

    def _check_own(self, ref: artifacts.ArtifactRef) -> None:
        """Refuse a ref that leads elsewhere: refs come from the bus."""
        if _path_of(ref.uri) != _path_of(f"{self.uri}/{_BLOBS}/{ref.digest[7:9]}/{ref.digest[7:]}"):
            raise errors.ForeignArtifact(ref.uri, self.uri)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _path_of(uri: str) -> tuple[str, str, str]:
    parts = urlsplit(uri)
    scheme = parts.scheme or "file"
    return scheme, parts.netloc, unquote(parts.path)


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(info: dict[str, Any]) -> float:
    changed = info.get("mtime") or info.get("LastModified") or info.get("created") or 0.0
    return changed.timestamp() if hasattr(changed, "timestamp") else float(changed)


def _schema(value: values.Value) -> list[artifacts.ColumnSchema] | None:
    columns = value.schema()
    if columns is None:
        return None
    return [artifacts.ColumnSchema(name=n, type=t, nullable=null) for n, t, null in columns]
