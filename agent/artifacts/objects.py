"""Owns the artifact store's way to the bus's object store: a file system that calls a bucket.

Whoever calls waits in a thread of its own; the connection lives in one that is shared.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import pathlib
import queue
import re
import secrets
import tempfile
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

import fsspec
import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from agent import config
from agent.artifacts import bucket, errors
from agent.bus import connection
from protocol import credentials, permissions

T = TypeVar("T")
CONNECT_S = 5.0
_RECONNECT_S = 0.1
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_FULL = {10002, 10023, 10047, 10077}
"""The broker's codes for a store, an account or a server that takes no more."""


class Access(msgspec.Struct, frozen=True):
    """How the bus is reached."""

    url: str
    who: credentials.Credentials = credentials.NOBODY


def access(url: str, settings: config.Nats, role: str = permissions.AGENT) -> Access | None:
    """Say how somebody reaches the bus; None where there is none."""
    return Access(url, connection.who(settings, role)) if url else None


def file_system(uri: str, access: Access | None = None) -> tuple[Any, str]:
    """Give the file system of a URI, and the path there."""
    if not uri.startswith(config.OBJECTS):
        system, path = fsspec.core.url_to_fs(uri)
        return system, str(path)
    path = uri.removeprefix(config.OBJECTS).lstrip("/")
    name = path.partition("/")[0]
    if access is None or not _NAME.fullmatch(name):
        raise errors.NoSuchStore(uri)
    return ObjectFiles(name, access), path


class ObjectFiles(fsspec.AbstractFileSystem):
    """The objects of one bucket as files, `BUCKET/NAME`; there are no folders."""

    protocol = "nats-objects"
    cachable = False

    def __init__(self, name: str, access: Access) -> None:
        super().__init__()
        self._bucket = name
        self._line = _Line(name, access)
        weakref.finalize(self, self._line.end)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Tell of a file; raise FileNotFoundError."""
        return self._told(self._found(self._name(path)))

    def find(self, path: str, *_: Any, detail: bool = False, **__: Any) -> Any:
        """List the files whose names begin with a path."""
        name = self._name(path).rstrip("/")
        start = f"{name}/" if name else ""
        below = (each for each in self._all() if each.meta.name.startswith(start))
        told = {f"{self._bucket}/{each.meta.name}": self._told(each) for each in below}
        return told if detail else sorted(told)

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        """Read a file; raise FileNotFoundError."""
        file = io.BytesIO()
        self._copy(self._name(path), file)
        return file.getvalue()

    def get_file(self, rpath: str, lpath: str, *_: Any, **__: Any) -> None:
        """Copy a file here; raise FileNotFoundError."""
        with pathlib.Path(lpath).open("wb") as file:
            self._copy(self._name(rpath), file)

    def pipe_file(self, path: str, value: bytes, *_: Any, **__: Any) -> None:
        """Write a file."""
        self._write(self._name(path), bucket.pieces(value))

    def put_file(self, lpath: str, rpath: str, *_: Any, **__: Any) -> None:
        """Copy a file there; it is there once all of it is."""
        with pathlib.Path(lpath).open("rb") as file:
            self._write(self._name(rpath), iter(lambda: file.read(bucket.CHUNK_BYTES), b""))

    def rm_file(self, path: str) -> None:
        """Delete a file, if it is there."""
        self._line.ask(bucket.Bucket.remove, self._name(path))

    def sweep(self, before: float) -> int:
        """Delete what writers that died before a POSIX time have left unfinished; say how much."""
        written = self._line.ask(bucket.Bucket.written)
        used = {each.meta.nuid for each in self._all()}  # what is finished since is among them
        lost = [each for each in written if each not in used and self._is_old(each, before)]
        for nuid in lost:
            self._line.ask(bucket.Bucket.forget, nuid)
        return len(lost)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise NotImplementedError(mode)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        self._copy(self._name(path), file)
        file.seek(0)
        return file

    def _name(self, path: str) -> str:
        name = path.removeprefix(config.OBJECTS).lstrip("/")
        return name.removeprefix(self._bucket).lstrip("/")

    def _told(self, found: bucket.Found) -> dict[str, Any]:
        name = f"{self._bucket}/{found.meta.name}"
        return {"name": name, "size": found.meta.size, "type": "file", "mtime": found.changed}

    def _found(self, name: str) -> bucket.Found:
        found = self._line.ask(bucket.Bucket.find, name)
        if found is None:
            raise FileNotFoundError(name)
        return found

    def _all(self) -> Iterator[bucket.Found]:
        first = 1
        while page := self._line.ask(bucket.Bucket.listed, first):
            yield from (each for each in page if not each.meta.deleted)
            first = page[-1].sequence + 1

    def _is_old(self, nuid: str, before: float) -> bool:
        return self._line.ask(bucket.Bucket.last_written, nuid) < before

    def _copy(self, name: str, file: BinaryIO) -> None:
        """Write an object's bytes into a file, anew where it is replaced meanwhile.

        Of one that has lost chunks it is what is left: who reads it checks its digest.
        """
        before = None
        while (found := self._found(name)) != before:
            file.seek(0)
            file.truncate()
            self._pour(found.meta, file)
            if file.tell() == found.meta.size:
                return
            before = found

    def _pour(self, meta: bucket.Meta, file: BinaryIO) -> None:
        first = 1
        while file.tell() < meta.size:
            data, first = self._line.ask(bucket.Bucket.read, meta.nuid, first)
            if not data:
                return
            file.write(data)

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Store the chunks of an object, then what makes it one."""
        nuid, digest, size, count = secrets.token_hex(11), hashlib.sha256(), 0, 0
        try:
            for count, piece in enumerate(pieces, 1):  # noqa: B007 - counted
                self._line.ask(bucket.Bucket.append, nuid, piece)
                digest.update(piece)
                size += len(piece)
            shown = base64.urlsafe_b64encode(digest.digest()).decode()
            meta = bucket.Meta(name, self._bucket, nuid, size, count, f"SHA-256={shown}")
            self._line.ask(bucket.Bucket.describe, meta)
        except BaseException:
            with contextlib.suppress(errors.ArtifactError):  # else a collection sweeps it
                self._line.ask(bucket.Bucket.forget, nuid)
            raise


class _Line:
    """A connection in a thread of its own, made when first asked, and again where it is over."""

    def __init__(self, name: str, access: Access) -> None:
        self._name = name
        self._access = access
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._over = asyncio.Event()
        self._connecting = asyncio.Lock()
        self._nc: Client | None = None
        self._refused = ""

    def ask(self, what: Callable[..., Coroutine[Any, Any, T]], *more: Any) -> T:
        """Have a method of the bucket called; raise StoreAway, StoreFull or StoreRefused."""
        return asyncio.run_coroutine_threadsafe(self._asked(what, more), self._started()).result()

    def end(self) -> None:
        """Close the connection and end the thread, some time soon."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._over.set)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                started: queue.SimpleQueue[asyncio.AbstractEventLoop] = queue.SimpleQueue()
                serve = lambda: asyncio.run(self._serve(started.put))  # noqa: E731
                threading.Thread(target=serve, name="objects", daemon=True).start()
                self._loop = started.get()
            return self._loop

    async def _serve(self, tell: Callable[[asyncio.AbstractEventLoop], None]) -> None:
        loop = asyncio.get_running_loop()
        # What goes wrong is raised to who asked; the rest is what the client leaves when it closes.
        loop.set_exception_handler(lambda *_: None)
        tell(loop)
        await self._over.wait()
        if self._nc is not None:
            with contextlib.suppress(RuntimeError, OSError):  # of a transport that has just broken
                await self._nc.close()

    async def _asked(self, what: Callable[..., Coroutine[Any, Any, T]], more: tuple[Any, ...]) -> T:
        try:
            async with self._connecting:
                nc = await self._connected()
            return await what(bucket.Bucket(nc, self._name), *more)
        except nats.js.errors.APIError as error:
            full = error.err_code in _FULL
            said = str(error.description)
            raise (errors.StoreFull if full else errors.StoreAway)(self._name, said) from error
        except credentials.CredentialsError as error:
            raise errors.StoreRefused(self._name, str(error)) from error
        except (nats.errors.Error, TimeoutError, OSError) as error:
            refused, self._refused = self._refused, ""
            if refused:
                raise errors.StoreRefused(self._name, refused) from error
            raise errors.StoreAway(self._name, type(error).__name__) from error

    async def _connected(self) -> Client:
        if self._nc is None or self._nc.is_closed:
            async with asyncio.timeout(CONNECT_S):  # it would try for ever
                self._nc = await credentials.connect(
                    self._access.url,
                    self._access.who,
                    name="artifacts",
                    error_cb=self._heard,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_S,
                )
        return self._nc

    async def _heard(self, error: Exception) -> None:
        """Keep what the server does not let us do: it says so aside."""
        if "permissions violation" in str(error).lower():
            self._refused = str(error).removeprefix("nats: ")
