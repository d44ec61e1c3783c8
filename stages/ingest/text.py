"""Owns the reading of CSV, its encoding, delimiter and columns of several types."""

from __future__ import annotations

import codecs
import csv
import io
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from stages import kit, sources

if TYPE_CHECKING:
    import pyarrow as pa

Mixed = Literal["fail", "text"]
NULLS = ("", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "<NA>")
"""Texts that stand for a gap; `NaN` is a number's value, and is kept."""

_DELIMITERS = ",;\t|"
_OTHERS = ",;\t|:^~"
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_SAMPLE_BYTES = 1 << 16
_SAMPLE_ROWS = 50
_MOSTLY = 0.9
"""A text column of which so much reads as numbers was meant to hold numbers."""
_SHOWN = 3
_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class WrongEncoding(kit.DataFault):
    """A file is not text in the encoding it is read in."""

    def __init__(self, uri: str, encoding: str, offset: int, found: bytes) -> None:
        guess = next((name for bom, name in _BOMS.items() if found.startswith(bom)), "cp1252")
        super().__init__(
            f"{sources.shown(uri)!r} is not {encoding}: byte {offset} is 0x{found[:1].hex()}",
            hint=f"try the encoding {guess!r}, or save the file as UTF-8",
            path="$.encoding",
        )
        self.offset = offset


class UnknownEncoding(kit.DataFault):
    """There is no text encoding of this name."""

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"there is no text encoding {encoding!r}", hint="as 'cp1252'", path="$.encoding"
        )


class WrongDelimiter(kit.DataFault):
    """A header has a single column, and what separates columns elsewhere is in its name."""

    def __init__(self, delimiter: str, header: str, likely: str) -> None:
        super().__init__(
            f"separated by {_said(delimiter)}, the header {header[:80]!r} is a single column",
            hint=f"{_said(likely)} seems to separate its columns: set delimiter to {likely!r}",
            path="$.delimiter",
        )
        self.likely = likely


class MixedTypes(kit.DataFault):
    """A column holds values of several types."""

    def __init__(self, column: str, usual: str, samples: list[str]) -> None:
        shown = ", ".join(samples[:_SHOWN])
        super().__init__(
            f"the column {column!r} holds {usual}, but also {shown}",
            hint="mend the source, name what stands for a gap in nulls, or set mixed to 'text'",
            path="$.mixed",
        )
        self.column = column


class Broken(kit.DataFault):
    """A file is not of the format it is read as."""

    def __init__(self, uri: str, kind: str, reason: str, hint: str | None = None) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} is not sound {kind}: {reason}", hint=hint, path=sources.PATH
        )


class RepeatedColumns(kit.DataFault):
    """A source has several columns of one name."""

    def __init__(self, uri: str, names: list[str]) -> None:
        shown = ", ".join(repr(name) for name in names[:5])
        super().__init__(
            f"{sources.shown(uri)!r} has several columns of the name {shown}",
            hint="give each column its own name at the source",
            path=sources.PATH,
        )


def _said(delimiter: str) -> str:
    return _NAMES.get(delimiter, repr(delimiter))


def is_blank(path: pathlib.Path) -> bool:
    """Tell a file that holds nothing but white space."""
    with path.open("rb") as source:
        return not any(chunk.strip() for chunk in iter(lambda: source.read(sources.CHUNK), b""))


def require_encoding(uri: str, path: pathlib.Path, encoding: str) -> None:
    """Raise WrongEncoding with the first byte that is not text, or UnknownEncoding."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)  # refuses what is none of text, as rot13
        decoder = codecs.getincrementaldecoder(encoding)()
    except (LookupError, ValueError) as error:
        raise UnknownEncoding(encoding) from error
    fed, kept = 0, 0
    with path.open("rb") as source:
        while True:
            chunk = source.read(sources.CHUNK)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeError as error:
                offset = fed - kept + getattr(error, "start", 0)
                raise WrongEncoding(uri, encoding, offset, _at(path, offset)) from error
            if not chunk:
                return
            fed, kept = fed + len(chunk), len(decoder.getstate()[0])


def _at(path: pathlib.Path, offset: int) -> bytes:
    with path.open("rb") as source:
        source.seek(offset)
        return source.read(4)


def _sample(path: pathlib.Path, encoding: str) -> list[str]:
    with path.open("rb") as source:
        start = source.read(_SAMPLE_BYTES)
    text = start.decode(encoding, errors="ignore").removeprefix("\ufeff")
    lines = text.splitlines()
    whole = lines[:-1] if len(start) == _SAMPLE_BYTES and lines[1:] else lines
    return [line for line in whole if line.strip()][:_SAMPLE_ROWS]


def delimiter_of(path: pathlib.Path, encoding: str, given: str | None) -> str:
    """Find what separates the columns; raise WrongDelimiter if what is given, or found, does not.

    The delimiter that cuts all lines into the same number of pieces, and into most, is it.
    """
    lines = _sample(path, encoding)
    found = given or max(_DELIMITERS, key=lambda each: _fit(lines, each))
    header = next(csv.reader(lines[:1], delimiter=found), [])
    if len(header) == 1:
        likely = max(_OTHERS, key=header[0].count)
        if likely != found and likely in header[0] and _fit(lines, likely) > (0, 0):
            raise WrongDelimiter(found, header[0], likely)
    return found


def _fit(lines: list[str], delimiter: str) -> tuple[int, int]:
    widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
    if not widths or widths[0] == 1:
        return (0, 0)
    return (sum(width == widths[0] for width in widths), widths[0])


def read_csv(  # noqa: PLR0917 - what a CSV file leaves open
    uri: str, path: pathlib.Path, delimiter: str, encoding: str, nulls: list[str], mixed: Mixed
) -> pa.Table:
    """Read a CSV file whose encoding and delimiter are known to fit."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    try:
        found = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(encoding=encoding),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(null_values=nulls, strings_can_be_null=True),
        )
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0][:200]
        hint = "look for rows with more or fewer columns, and for quotes that stay open"
        raise Broken(uri, "CSV", reason, hint) from error
    if mixed == "fail":
        _require_one_type(found)
    return found


def _require_one_type(table: pa.Table) -> None:
    """Raise MixedTypes for a text column that is mostly numbers."""
    import pandas as pd

    for number, field in enumerate(table.schema):  # two may have one name: that is told later
        if str(field.type) != "string" or not table.num_rows:
            continue
        texts = table.column(number).drop_null().to_pandas()
        numbers = pd.to_numeric(texts, errors="coerce").notna()
        strange = texts[~numbers & (texts.str.lower() != "nan")]
        if len(strange) and numbers.mean() >= _MOSTLY:
            raise MixedTypes(field.name, "numbers", list(_placed(table.column(number), strange)))


def _placed(column: Any, strange: Any) -> Iterator[str]:
    import pyarrow.compute as pc

    for value in list(dict.fromkeys(strange))[:_SHOWN]:
        yield f"{value[:40]!r} in row {pc.index(column, value).as_py() + 1}"
