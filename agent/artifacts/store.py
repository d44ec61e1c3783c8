"""Owns the artifact store: content-addressed blobs behind an fsspec URI, whole or not there."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, Self, cast
from urllib.parse import unquote, urlsplit

from agent.artifacts import errors, files, inline, objects, reach
from protocol import artifacts
from stages import registry, values

FRESH_S = 60.0
"""A blob younger than this is not made younger when it is put again."""
SMALL_BYTES = 1 << 20
"""A remote blob up to this size is read, and so verified, before a cached result is given."""
_BLOBS = "sha256"
_INLINE = "inline"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What file systems call the time of last change; the last one only where there is no other."""


class Store:
    """Blobs under `<root>/sha256/ab/<digest>`. Equal content is stored once.

    `local` is a folder of this machine: for temporary files, and for copies of remote blobs. A
    local store hands its own files out, so a table is mapped from where it lies. A store on the
    bus needs `access` to it.
    """

    def __init__(
        self, uri: str, local: pathlib.Path | str, access: objects.Access | None = None
    ) -> None:
        self.uri = uri.rstrip("/")
        self._fs, self._root = objects.file_system(self.uri, access)
        self._is_local = "file" in _protocols(self._fs)
        if self._is_local and "://" in uri:
            self._root = unquote(self._root)
        self._local = pathlib.Path(local)
        self._scratch = (pathlib.Path(self._root) if self._is_local else self._local) / "tmp"
        self._digests = files.Digests()
        if not (self._is_local or isinstance(self._fs, objects.ObjectFiles)):
            self._fs = reach.Guarded(self._fs, self.uri)

    def make(self) -> Self:
        """Make the folder of a local store. It is not made again: without it the store is away."""
        if self._is_local:
            pathlib.Path(self._root).mkdir(parents=True, exist_ok=True)
        return self

    def put(self, value: values.Value, max_bytes: int | None = None) -> artifacts.ArtifactRef:
        """Store a value durably; what is there already, and whole, is not written again.

        A small document is not stored but travels in its reference. Raises ArtifactTooLarge.
        """
        if isinstance(value, values.Json) and len(data := value.dump()) <= inline.MOST_BYTES:
            uri = inline.uri(value.media_type, data)
            return _ref(value, files.digest_of(data), uri, len(data))
        self._check_there()
        with files.scratch(self._scratch) as path:
            value.save(path)
            size = path.stat().st_size
            if max_bytes is not None and size > max_bytes:
                raise errors.ArtifactTooLarge(value.kind, size, max_bytes)
            digest = files.digest(path)
            if not self._renew(digest, size):
                self._deliver(path, self._place(digest), durable=True)
        return _ref(value, digest, self._uri_of(digest), size)

    def get(self, ref: artifacts.ArtifactRef) -> values.Value:
        """Read a value back.

        Raises ArtifactMissing, ArtifactCorrupt, or ForeignArtifact for a ref of another store.
        """
        kind = registry.kind(ref.kind)
        if inline.holds(ref) and issubclass(kind, values.Json):
            return kind.parse(inline.read(ref))
        return kind.load(self.path(ref))

    def path(self, ref: artifacts.ArtifactRef) -> pathlib.Path:
        """Give a local file with the artifact's bytes, verified against its digest."""
        if inline.holds(ref):
            return self._written_out(ref)
        self._check_own(ref)
        path = self._local_path(ref.digest)
        found = self._digest_at(path)
        if found == ref.digest:
            return path
        if not self._is_local:
            self._fetch(ref, path)  # there is no copy yet, or the copy is at fault
        elif found is None:
            self._check_there()
            raise errors.ArtifactMissing(ref.digest, ref.uri)
        else:
            raise errors.ArtifactCorrupt(ref.digest, ref.uri, found)
        return path

    def renew(self, ref: artifacts.ArtifactRef) -> bool:
        """Say whether an artifact is there and whole; a local one that is counts as new then.

        A local one is verified byte by byte, as is a small remote one. Of a large remote one the
        size is compared; its bytes are verified when they are read.
        """
        if inline.holds(ref):
            return _is_sound(ref)
        self._check_own(ref)
        if self._is_local:
            return self._renew(ref.digest, ref.size_bytes)
        return self._is_whole(ref.digest, ref.size_bytes, self._remote_info(ref.digest))

    def digests(self) -> Iterator[tuple[str, float]]:
        """List stored blobs as (digest, POSIX time of last change)."""
        for path, info in self._find(_BLOBS).items():
            yield f"sha256:{path.rsplit('/', 1)[-1]}", _changed(info)

    def delete(self, digest: str, *, before: float | None = None) -> None:
        """Remove a blob, and the copy of it here; one that is not there is ignored.

        With `before`, leave one that was stored again, or renewed, since that POSIX time.
        """
        copy = self._local_path(digest)
        if before is not None and self._changed_at(digest) >= before:
            return
        self._digests.forget(copy)
        copy.unlink(missing_ok=True)
        if not self._is_local:
            self._remove(self._place(digest))

    def sweep(self, before: float) -> int:
        """Remove what writers that died before a POSIX time left unfinished, here or on the bus."""
        swept = files.sweep(self._scratch, before)
        if isinstance(self._fs, objects.ObjectFiles):
            swept += self._fs.sweep(before)
        return swept

    def write_record(self, name: str, data: bytes) -> None:
        """Keep a small named document beside the blobs, replacing one of that name at once.

        It is not forced to disk: after a power cut it may be gone, or be what it was.
        """
        self._check_there()
        with files.scratch(self._scratch) as path:
            path.write_bytes(data)
            self._deliver(path, f"{self._root}/{name}", durable=False)

    def read_record(self, name: str) -> bytes | None:
        """Read a named document."""
        with contextlib.suppress(FileNotFoundError):
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        return None

    def records(self, folder: str) -> list[tuple[str, float]]:
        """List the documents of a folder, newest first, with the POSIX time of last change."""
        base = f"{self._root}/{folder}"
        found = [
            (folder + path.split(base, 1)[1], _changed(info))
            for path, info in self._find(folder).items()
        ]
        return sorted(found, key=lambda item: item[1], reverse=True)

    def remove_record(self, name: str) -> None:
        """Remove a named document."""
        self._remove(f"{self._root}/{name}")

    def _written_out(self, ref: artifacts.ArtifactRef) -> pathlib.Path:
        """Write what a reference carries to a file of this machine."""
        data = inline.read(ref)
        path = self._local / _INLINE / ref.digest[7:]
        if self._digest_at(path) != ref.digest:
            with files.scratch(self._local / "tmp") as draft:
                draft.write_bytes(data)
                files.deliver(draft, path, durable=False)
        return path

    def _renew(self, digest: str, size: int) -> bool:
        """Make a whole blob count as new; False where it has to be written (again)."""
        if not self._is_local:
            info = self._remote_info(digest)
            return _is_fresh(_changed(info)) and self._is_whole(digest, size, info)
        path = self._local_path(digest)
        with contextlib.suppress(FileNotFoundError):
            if self._digests.of(path) != digest:
                return False
            if not _is_fresh(files.changed(path)):
                self._digests.touch(path)
            return True
        return False

    def _is_whole(self, digest: str, size: int, info: dict[str, Any]) -> bool:
        """Say whether a remote blob is what it should be; a small one is read to be sure."""
        if info.get("size") != size or size > SMALL_BYTES:
            return info.get("size") == size
        with contextlib.suppress(FileNotFoundError):
            data = self._fs.cat_file(self._place(digest))
            return hashlib.sha256(data).hexdigest() == digest[7:]
        return False

    def _digest_at(self, path: pathlib.Path) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return self._digests.of(path)
        return None

    def _changed_at(self, digest: str) -> float:
        """Give the POSIX time of a blob's last change; 0 where there is none."""
        if self._is_local:
            return files.changed(self._local_path(digest))
        info = self._remote_info(digest)
        return _changed(info) if info else 0.0

    def _deliver(self, path: pathlib.Path, place: str, *, durable: bool) -> None:
        """Move a finished file to its name: a reader sees all of it or nothing."""
        if self._is_local:
            files.deliver(path, pathlib.Path(place), durable=durable)
        else:
            self._fs.put_file(str(path), place)

    def _fetch(self, ref: artifacts.ArtifactRef, path: pathlib.Path) -> None:
        """Copy a remote blob here, under its name only if its bytes are right."""
        with files.scratch(self._scratch) as copy:
            try:
                self._fs.get_file(self._place(ref.digest), str(copy))
            except FileNotFoundError as error:
                raise errors.ArtifactMissing(ref.digest, ref.uri) from error
            found = files.digest(copy)
            if found != ref.digest:
                raise errors.ArtifactCorrupt(ref.digest, ref.uri, found)
            files.deliver(copy, path, durable=False)

    def _find(self, folder: str) -> dict[str, dict[str, Any]]:
        self._fs.invalidate_cache()
        try:
            found: dict[str, dict[str, Any]] = self._fs.find(f"{self._root}/{folder}", detail=True)
        except FileNotFoundError:
            return {}
        return found

    def _remote_info(self, digest: str) -> dict[str, Any]:
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            return dict(self._fs.info(self._place(digest)))
        return {}

    def _remove(self, place: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(place)

    def _place(self, digest: str) -> str:
        return f"{self._root}/{_BLOBS}/{digest[7:9]}/{digest[7:]}"

    def _uri_of(self, digest: str) -> str:
        return f"{self.uri}/{_BLOBS}/{digest[7:9]}/{digest[7:]}"

    def _local_path(self, digest: str) -> pathlib.Path:
        if self._is_local:
            return pathlib.Path(self._place(digest))
        return self._local / _BLOBS / digest[7:]

    def _check_there(self) -> None:
        """Refuse to begin another store where a disk is not mounted, or a folder was moved."""
        if self._is_local and not pathlib.Path(self._root).is_dir():
            raise errors.Unreachable(self.uri, "its folder is not there")

    def _check_own(self, ref: artifacts.ArtifactRef) -> None:
        """Refuse a ref that leads elsewhere: refs come from the bus."""
        known = _DIGEST.fullmatch(ref.digest)
        if not known or _path_of(ref.uri) != _path_of(self._uri_of(ref.digest)):
            raise errors.ForeignArtifact(ref.uri, self.uri)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _path_of(uri: str) -> tuple[str, str, str]:
    parts = urlsplit(uri)
    return parts.scheme or "file", parts.netloc, unquote(parts.path)


def _is_fresh(changed: float) -> bool:
    return time.time() - changed < FRESH_S


def _changed(info: dict[str, Any]) -> float:
    """Give the POSIX time of last change; what tells none counts as new, and is not collected."""
    changed = next((info[name] for name in _TIMES if info.get(name)), None)
    if changed is None:
        return time.time()
    if isinstance(changed, str):
        changed = dt.datetime.fromisoformat(changed)
    return changed.timestamp() if isinstance(changed, dt.datetime) else float(changed)


def _ref(value: values.Value, digest: str, uri: str, size: int) -> artifacts.ArtifactRef:
    return artifacts.ArtifactRef(
        kind=cast("artifacts.Kind", value.kind),
        digest=digest,
        uri=uri,
        media_type=value.media_type,
        size_bytes=size,
        rows=value.rows(),
        schema=_schema(value),
    )


def _is_sound(ref: artifacts.ArtifactRef) -> bool:
    try:
        inline.read(ref)
    except errors.ArtifactCorrupt:
        return False
    return True


def _schema(value: values.Value) -> list[artifacts.ColumnSchema] | None:
    columns = value.schema()
    if columns is None:
        return None
    return [artifacts.ColumnSchema(name=n, type=t, nullable=null) for n, t, null in columns]
