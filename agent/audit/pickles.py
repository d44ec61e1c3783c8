"""Owns telling a pickle by its bytes, whatever its name, and those inside archives.

Nothing is loaded: bytes are looked at, and a pickle's operations are listed without being done.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickletools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

HEAD = 1 << 16
_DEEPEST = 3
_NAMES = (".pkl", ".pickle", ".joblib", ".dill", ".pck", ".mar")
_NUMPY = b"\x93NUMPY"
_PROTOCOLS = tuple(bytes([0x80, number]) for number in range(2, 6))
_IMPORTING = {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "OBJ", "NEWOBJ", "BUILD"}
_PACKED: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", lambda data: gzip.GzipFile(fileobj=io.BytesIO(data)).read1(HEAD)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data, HEAD)),
    (b"\xfd7zXZ", lambda data: lzma.LZMADecompressor().decompress(data, HEAD)),
    (b"\x78", lambda data: zlib.decompressobj().decompress(data, HEAD)),
)
"""How joblib packs, by the first bytes."""


def reasons(file: IO[bytes], name: str = "") -> list[str]:
    """Say where a file holds pickles; empty where it holds none. `file` can be sought."""
    return list(_reasons(file, name, 0))


def _reasons(file: IO[bytes], name: str, depth: int) -> Iterator[str]:
    file.seek(0)
    head = file.read(HEAD)
    label = name or "it"
    if head.startswith(b"PK") and zipfile.is_zipfile(file):
        yield from _in_zip(file, name, depth)
    elif head[257:262] == b"ustar":
        yield from _in_tar(file, name, depth)
    elif is_pickle(head):
        yield f"{label} is a pickle"
    elif _is_object_array(head):
        yield f"{label} is a NumPy array of pickled objects"
    elif is_pickle(_unpacked(head)):
        yield f"{label} is a packed pickle"
    elif name.lower().endswith(_NAMES):
        yield f"{label} has the name of a pickle"


def is_pickle(head: bytes) -> bool:
    """Tell whether bytes begin as a pickle that imports or calls something, or names a protocol."""
    if head.startswith(_PROTOCOLS):
        return True
    seen: set[str] = set()
    try:
        for operation, _, _ in pickletools.genops(head):
            seen.add(operation.name)
    except (ValueError, IndexError, UnicodeDecodeError):
        return False  # of an old protocol only what is whole can be told from other texts
    return bool(seen & _IMPORTING)


def _is_object_array(head: bytes) -> bool:
    return head.startswith(_NUMPY) and b"'descr': '|O'" in head[:512]


def _unpacked(head: bytes) -> bytes:
    for start, unpack in _PACKED:
        if head.startswith(start):
            try:
                return unpack(head)
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
                return b""
    return b""


def _in_zip(file: IO[bytes], name: str, depth: int) -> Iterator[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as inner:
                        yield from _member(inner, f"{name}!{member.filename}", depth)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError) as error:
        yield f"{name or 'it'} is an archive that can't be looked into ({error})"


def _in_tar(file: IO[bytes], name: str, depth: int) -> Iterator[str]:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if inner := archive.extractfile(member):
                    yield from _member(inner, f"{name}!{member.name}", depth)
    except tarfile.TarError as error:
        yield f"{name or 'it'} is an archive that can't be looked into ({error})"


def _member(inner: IO[bytes], name: str, depth: int) -> Iterator[str]:
    if depth == _DEEPEST:
        yield f"{name} lies too deep to be looked into"
    else:
        yield from _reasons(inner, name, depth + 1)
