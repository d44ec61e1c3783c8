"""Owns the decoding of messages, of JSON, JSON Lines or MessagePack, to the rows of a table."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from stages import kit, sources
from stages.ingest import cells, jsonl, text

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["json", "jsonl", "msgpack"]

_CHUNK_ROWS = 10_000
_DEEPEST = 50
_CELL = 8


class NotDecoded(Exception):
    """A message is not of the format it is read as."""


class Rows(Protocol):
    """What takes messages and becomes a table."""

    def add(self, data: bytes) -> int:
        """Take a message, whole or not at all, and give its number of rows; raise NotDecoded."""
        ...

    def table(self) -> pa.Table:
        """Give the rows of all messages; raise MixedTypes, Unfit or TooLarge."""
        ...


@contextlib.contextmanager
def rows(kind: Format, name: str, context: kit.Context, mixed: text.Mixed) -> Iterator[Rows]:
    """Gather rows of a format; JSON goes through a file in the workdir, as ingest.table's does."""
    limit = context.services.max_input_bytes
    if kind == "msgpack":
        yield Packed(name, mixed, limit)
        return
    path = context.workdir / "messages.jsonl"
    with path.open("wb") as sink:
        yield Lines(name, path, sink, mixed, limit, many=kind == "jsonl")


class Lines:
    """JSON objects, one a message or many on lines of their own."""

    def __init__(
        self,
        name: str,
        path: pathlib.Path,
        sink: IO[bytes],
        mixed: text.Mixed,
        limit: int,
        *,
        many: bool,
    ) -> None:
        self._name = name
        self._limit = limit
        self._path = path
        self._sink = sink
        self._mixed = mixed
        self._many = many
        self._decoder = msgspec.json.Decoder(dict[str, Any])

    def add(self, data: bytes) -> int:
        """Write a message's objects, each on one line."""
        found = data.splitlines() if self._many else [data]
        found = [line.strip() for line in found if line.strip() or not self._many]
        for line in found:
            self._require(line)
        for line in found:  # outside of texts, the end of a line is but a space
            self._sink.write(line.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")
        return len(found)

    def _require(self, line: bytes) -> None:
        try:
            line.decode()
            _require_shallow(self._decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NotDecoded(str(error)) from error

    def table(self) -> pa.Table:
        """Read what was written."""
        self._sink.flush()
        return jsonl.read(self._name, self._path, self._mixed, self._limit)


class Packed:
    """MessagePack maps, one a message."""

    def __init__(self, name: str, mixed: text.Mixed, limit: int) -> None:
        self._name = name
        self._mixed = mixed
        self._limit = limit
        self._decoder = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_refused)
        self._columns: dict[str, cells.Column] = {}
        self._names: set[str] = set()
        self._rows = 0
        self._chunk: list[dict[str, Any]] = []
        self._sizes: list[int] = []

    def add(self, data: bytes) -> int:
        """Take a message's map."""
        try:
            found = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise NotDecoded(str(error)) from error
        _require_shallow(found)
        self._names.update(found)
        self._rows += 1
        if self._rows * len(self._names) * _CELL > self._limit:  # each may have names of its own
            raise sources.TooLarge(self._name, self._limit)
        self._chunk.append(found)
        if len(self._chunk) == _CHUNK_ROWS:
            self._pack()
        return 1

    def _pack(self) -> None:
        for name in dict.fromkeys(name for row in self._chunk for name in row):
            if name not in self._columns:
                self._columns[name] = self._new(name)
        for name, column in self._columns.items():
            column.add([row.get(name) for row in self._chunk])
        self._sizes.append(len(self._chunk))
        self._chunk = []

    def _new(self, name: str) -> cells.Column:
        """Make a column with gaps for the rows before it."""
        column = cells.Column(name, self._mixed, nested=True)
        for size in self._sizes:
            column.add([None] * size)
        return column

    def table(self) -> pa.Table:
        """Give the columns as they have become."""
        import pyarrow as pa

        if self._chunk:
            self._pack()
        return pa.table({name: column.whole() for name, column in self._columns.items()})


def _refused(code: int, _: memoryview) -> Any:
    msg = f"extension {code} has no meaning here"
    raise ValueError(msg)


def _require_shallow(value: Any) -> None:
    """Raise NotDecoded for what is nested deeper than Arrow can load: it would end the process."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for part in inner for each in part if isinstance(each, dict | list)]
        if not level:
            return
    msg = f"it is nested more than {_DEEPEST} deep"
    raise NotDecoded(msg)


def repeated(found: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    """Repeat what is true of a message for each of its rows."""
    return [each for each, count in zip(found, counts, strict=True) for _ in range(count)]
