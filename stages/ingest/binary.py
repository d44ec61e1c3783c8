"""Owns the reading of Parquet and Arrow files, and the refusal of those that unpack too far."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stages import columns, kit, sources
from stages.ingest import batches, text

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 65_536
_WIDTHS = {"BOOLEAN": 0.125, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


class FoldedColumn(kit.DataFault):
    """A column's type lets a few bytes stand for any number of values."""

    def __init__(self, uri: str, column: str, kind: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} holds the column {column!r} of type {kind}, which is not read",
            hint="write it with plain lists and texts, or name the columns to read in columns",
            path="$.columns",
        )


def read_parquet(
    uri: str, path: pathlib.Path, names: list[str], most: int | None, limit: int
) -> pa.Table:
    """Read at most so many rows of a Parquet file; raise TooLarge before memory fills.

    A few kilobytes can hold a text once and name it a million times. Texts are therefore read as
    dictionaries, and measured before they are written out.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as plain:
            schema, texts = plain.schema_arrow, _texts(plain)
        chosen = _chosen(uri, schema, names)
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            _require_sound(file)
            _require_size(uri, file, chosen, most, limit)
            found = file.iter_batches(batch_size=_safe_rows(uri, file, limit), columns=chosen)
            parts = (_sound(uri, each, limit) for each in found)
            return _gathered(uri, parts, _picked(schema, chosen), most, limit)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise text.Broken(uri, "Parquet", _first(error)) from error


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _chosen(uri: str, schema: pa.Schema, names: list[str]) -> list[str]:
    if missing := [name for name in names if name not in schema.names]:
        raise columns.NoSuchColumn(missing, schema.names, "$.columns")
    chosen = names or schema.names
    if repeated := [name for name in dict.fromkeys(chosen) if schema.names.count(name) > 1]:
        raise text.RepeatedColumns(uri, repeated)
    for name in chosen:
        if _is_folded(kind := schema.field(name).type):
            raise FoldedColumn(uri, name, str(kind))
    return chosen


def _is_folded(kind: Any) -> bool:
    """Tell types whose few bytes may stand for many, but for those that are measured."""
    import pyarrow.types as of

    if of.is_run_end_encoded(kind) or of.is_list_view(kind) or of.is_large_list_view(kind):
        return True
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return any(_is_view(each) or _is_folded(each) for each in inner)


def _is_view(kind: Any) -> bool:
    import pyarrow.types as of

    return bool(of.is_string_view(kind) or of.is_binary_view(kind))


def _picked(schema: pa.Schema, names: list[str]) -> pa.Schema:
    """Give the fields of the result: views become plain, once they are measured."""
    import pyarrow as pa
    import pyarrow.types as of

    fields = []
    for field in map(schema.field, names):
        plain = pa.string() if of.is_string_view(field.type) else pa.binary()
        fields.append(field.with_type(plain) if _is_view(field.type) else field)
    return pa.schema(fields)


def _leaves(file: Any, chosen: list[str] | None = None) -> Iterator[tuple[Any, Any]]:
    """Give each stored column of each row group with its place in the schema."""
    for group in range(file.metadata.num_row_groups):
        for number in range(file.metadata.num_columns):
            leaf = file.schema.column(number)
            if chosen is None or leaf.path.split(".")[0] in chosen:
                yield leaf, file.metadata.row_group(group).column(number)


def _require_size(uri: str, file: Any, chosen: list[str], most: int | None, limit: int) -> None:
    """Judge by what the file says of itself; what it may be lying about is measured later."""
    if most is not None:
        return
    size = 0.0
    for leaf, chunk in _leaves(file, chosen):
        width = _WIDTHS.get(leaf.physical_type, leaf.length)
        size += max(chunk.total_uncompressed_size, chunk.num_values * width)
    if size > limit:
        raise sources.TooLarge(uri, limit, int(size))


def _require_sound(file: Any) -> None:
    """Read a row of each column chunk: what is wrong with one then raises and doesn't abort.

    A row of lists may be of any size, so they are left out.
    """
    for group in range(file.metadata.num_row_groups):
        for number in range(file.metadata.num_columns):
            if not file.schema.column(number).max_repetition_level:
                next(file.reader.iter_batches(1, [group], [number]), None)


def _texts(file: Any) -> list[str]:
    leaves = (file.schema.column(number) for number in range(file.metadata.num_columns))
    return sorted({leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"})


def _safe_rows(uri: str, file: Any, limit: int) -> int:
    """Give a number of rows that is safe to read at once.

    Dictionaries don't help where a text is stored as its difference to the last. Such a text is
    no longer than its column chunk, so that so many of them must fit. Raises TooLarge.
    """
    longest = 1
    for leaf, chunk in _leaves(file):
        if leaf.physical_type == "BYTE_ARRAY" and "DELTA_BYTE_ARRAY" in chunk.encodings:
            most = chunk.num_values if leaf.max_repetition_level else 1
            longest = max(longest, chunk.total_uncompressed_size * most)
    if longest > limit:
        raise sources.TooLarge(uri, limit)
    return min(_BATCH, limit // longest)


def _gathered(
    uri: str, parts: Iterator[Any], schema: pa.Schema, most: int | None, limit: int
) -> pa.Table:
    """Take batches up to a number of rows, and no more bytes than the limit once written out."""
    import pyarrow as pa

    taken, rows, size = [], 0, 0
    for batch in parts:
        part = batch if most is None else batch.slice(0, most - rows)
        size += sum(_written_out(part.column(n), schema.field(n).type) for n in range(len(schema)))
        if size > limit:
            raise sources.TooLarge(uri, limit)
        taken.append(pa.Table.from_batches([part]).cast(schema))
        rows += part.num_rows
        if most is not None and rows >= most:
            break
    return pa.concat_tables(taken) if taken else schema.empty_table()


def _written_out(array: Any, kind: Any) -> int:
    """Count the bytes of an array, of a dictionary as if each row had its own copy."""
    import pyarrow as pa

    if _is_view(array.type):
        return _viewed(array) + 8 * len(array)
    if pa.types.is_dictionary(array.type) and not pa.types.is_dictionary(kind):
        return _looked_up(array) + 8 * len(array)
    if parts := _parts(array, kind):
        return sum(_written_out(part, each) for part, each in parts) + 8 * len(array)
    return int(array.nbytes)


def _looked_up(array: Any) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.binary_length(array.dictionary).cast(pa.int64())
    return int(pc.sum(lengths.take(array.indices)).as_py() or 0)


def _parts(array: Any, kind: Any) -> list[tuple[Any, Any]]:
    """Give the arrays within lists, maps and structs, with the types they shall have."""
    import pyarrow.types as of

    if of.is_struct(kind):
        return list(zip(array.flatten(), [field.type for field in kind], strict=True))
    if of.is_map(kind):
        return [(array.keys, kind.key_type), (array.items, kind.item_type)]
    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return [(array.flatten(), kind.value_type)]
    return []


def _viewed(array: Any) -> int:
    """Add up the lengths of views, which Arrow has no function for: each begins with its own."""
    import numpy as np

    lengths = np.frombuffer(array.buffers()[1], "<i4")[::4]
    return int(lengths[array.offset : array.offset + len(array)].sum(dtype=np.int64))


def read_arrow(
    uri: str, path: pathlib.Path, names: list[str], most: int | None, limit: int
) -> pa.Table:
    """Read at most so many rows of an Arrow IPC file or stream."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path), "r") as source:
            _require_unpackable(uri, source, limit)
            batches.begin(source)
            stream = pa.ipc.open_stream(source)
            chosen = _chosen(uri, stream.schema, names)
            picked = _picked(stream.schema, chosen)
            parts = (_sound(uri, batch.select(chosen), limit) for batch in stream)
            return _gathered(uri, parts, picked, most, limit)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise text.Broken(uri, "Arrow IPC", _first(error)) from error


def _require_unpackable(uri: str, source: Any, limit: int) -> None:
    """Raise TooLarge before a batch is unpacked that takes more memory than may be."""
    batches.begin(source)
    if (size := sum(batches.sizes(source))) > limit:
        raise sources.TooLarge(uri, limit, size)


def _sound(uri: str, batch: Any, limit: int) -> Any:
    """Check offsets, lengths and texts: those of a file from elsewhere may be anything."""
    if sum(_viewed(column) for column in batch.columns if _is_view(column.type)) > limit:
        raise sources.TooLarge(uri, limit)  # each view's text would be looked through
    batch.validate(full=True)
    return batch
