"""Owns what an Arrow IPC file says of its own size: read off its messages, before memory is taken.

The layout is that of `Message.fbs` in the Arrow format, as FlatBuffers lay out a table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

_HEADER, _DATA, _LENGTH, _BUFFERS, _COMPRESSION = 2, 1, 0, 2, 3
_BUFFER = struct.Struct("<qq")
_AS_IT_IS = -1
_MAGIC = b"ARROW1"
_START = 8
_SMALLEST = 2 * _START


class NotSound(ValueError):
    """A message's fields point outside it, or a file ends before its end."""

    def __init__(self, reason: str = "a message's fields point outside it") -> None:
        super().__init__(reason)


def begin(source: Any) -> None:
    """Go to the first message: a file is a stream between two marks. Raises NotSound."""
    source.seek(0)
    if source.read(len(_MAGIC)) != _MAGIC:
        source.seek(0)
        return
    source.seek(max(source.size() - len(_MAGIC), 0))
    if source.size() < _SMALLEST or source.read() != _MAGIC:
        raise NotSound("its end is missing")
    source.seek(_START)


def sizes(source: Any) -> Iterator[int]:
    """Give the bytes that each message takes up once it is unpacked; raise NotSound."""
    import pyarrow as pa

    for message in pa.ipc.MessageReader.open_stream(source):
        try:
            yield _size(message)
        except (struct.error, IndexError) as error:
            raise NotSound from error


def _size(message: Any) -> int:
    if message.type not in ("record batch", "dictionary"):
        return 0
    data = memoryview(message.metadata)
    batch = _table(data, _field(data, _at(data, 0), _HEADER))
    if message.type == "dictionary":
        batch = _table(data, _field(data, batch, _DATA))
    rows = struct.unpack_from("<q", data, at)[0] if (at := _field(data, batch, _LENGTH)) else 0
    if not _field(data, batch, _COMPRESSION):
        return max(rows, len(message.body))
    return max(rows, sum(_unpacked(data, batch, memoryview(message.body))))


def _unpacked(data: memoryview, batch: int, body: memoryview) -> Iterator[int]:
    """Give the length of each buffer: a packed one begins with its own."""
    vector = _table(data, _field(data, batch, _BUFFERS))
    (count,) = struct.unpack_from("<I", data, vector)
    for number in range(count):
        offset, length = _BUFFER.unpack_from(data, vector + 4 + number * _BUFFER.size)
        said = struct.unpack_from("<q", body, offset)[0] if length else 0
        yield length if said == _AS_IT_IS else max(said, 0)


def _at(data: memoryview, place: int) -> int:
    return place + int(struct.unpack_from("<I", data, place)[0])


def _table(data: memoryview, place: int) -> int:
    if not place:
        raise NotSound
    return _at(data, place)


def _field(data: memoryview, table: int, number: int) -> int:
    """Give the place of a field of a table, or 0 where it is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise NotSound
    (size,) = struct.unpack_from("<H", data, vtable)
    entry = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + entry)[0] if entry + 2 <= size else 0
    return table + offset if offset else 0
