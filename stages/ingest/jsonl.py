"""Owns the reading of JSON Lines, and the refusal of lines that would end the process."""

from __future__ import annotations

import codecs
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stages import sources
from stages.ingest import text

if TYPE_CHECKING:
    import pyarrow as pa

_ONE_EACH = "each line is one JSON object; for one big array, write a line for each"
_DEEPEST = 60
"""Levels of nesting: Arrow loads no file that is nested deeper, and crashes at thousands."""
_CELL = 8
_TEXT = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)(?:"(\s*+:)?|\\?$)', re.DOTALL)
"""Each text of a line and whether it is a name; it takes in texts that stay open, so as not to
begin again at every quote within."""
_OPEN, _CLOSE = frozenset(b"[{"), frozenset(b"]}")


def read(uri: str, path: pathlib.Path, mixed: text.Mixed, limit: int) -> pa.Table:
    """Read JSON Lines; where Arrow can't, line by line, to say which line is wrong and how."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    _require_objects(uri, path, limit)
    try:
        return arrow_json.read_json(path)
    except pa.ArrowInvalid:
        return _line_by_line(uri, path, mixed)


def _require_objects(uri: str, path: pathlib.Path, limit: int) -> None:
    """Raise Broken for a line on which Arrow would crash, TooLarge where its columns would explode.

    A line that is no object, or is nested thousands deep, ends the process; and if each row has
    names of its own, there are as many columns as rows, and memory for their product.
    """
    names: set[bytes] = set()
    for rows, (number, line) in enumerate(_lines(path), start=1):
        if not (line.startswith(b"{") and line.endswith(b"}")):
            _parsed(uri, number, line.decode())
            raise text.Broken(uri, "JSON Lines", f"line {number} is not an object", _ONE_EACH)
        if line.count(b"{") + line.count(b"[") > _DEEPEST and _depth(line) > _DEEPEST:
            reason = f"line {number} is nested more than {_DEEPEST} deep"
            raise text.Broken(uri, "JSON Lines", reason, "keep what lies deep as text")
        names.update(found for found, colon in _TEXT.findall(line) if colon)
        if rows * len(names) * _CELL > limit:
            raise sources.TooLarge(uri, limit)


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as source:
        for number, line in enumerate(source, start=1):
            if found := line.removeprefix(codecs.BOM_UTF8).strip():
                yield number, found


def _depth(line: bytes) -> int:
    steps = ((char in _OPEN) - (char in _CLOSE) for char in _TEXT.sub(b"", line))
    return max(itertools.accumulate(steps), default=0)


def _line_by_line(uri: str, path: pathlib.Path, mixed: text.Mixed) -> pa.Table:
    import pyarrow as pa

    rows = list(_objects(uri, path))
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        columns = {name: _column(name, [row.get(name) for row in rows], mixed) for name in names}
        return pa.table(columns)
    except UnicodeEncodeError as error:
        reason = "it holds half of a surrogate pair, which is no character"
        raise text.Broken(uri, "JSON Lines", reason, "look for \\ud8 to \\udf") from error


def _objects(uri: str, path: pathlib.Path) -> Iterator[dict[str, Any]]:
    for number, line in _lines(path):
        found = _parsed(uri, number, line.decode())
        if not isinstance(found, dict):
            raise text.Broken(uri, "JSON Lines", f"line {number} is not an object", _ONE_EACH)
        yield found


def _parsed(uri: str, number: int, line: str) -> Any:
    import json

    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        hint = "each line is one whole JSON object"
        raise text.Broken(uri, "JSON Lines", f"line {number}: {error}", hint) from error


def _column(name: str, found: list[Any], mixed: text.Mixed) -> pa.Array:
    import json

    import pyarrow as pa

    kinds: dict[str, Any] = {}
    for value in found:
        if value is not None:
            kinds.setdefault(_kind(value), value)
    if len(kinds) > 1 and mixed == "fail":
        usual, *others = kinds
        samples = [f"{kind}, as {json.dumps(kinds[kind])[:40]}" for kind in others]
        raise text.MixedTypes(name, usual, samples)
    try:
        return pa.array(found if len(kinds) == 1 else _texts(found))
    except (pa.ArrowException, OverflowError) as error:
        if mixed == "text":
            return pa.array(_texts(found))
        raise text.MixedTypes(name, next(iter(kinds)), [str(error).splitlines()[0]]) from error


def _texts(found: list[Any]) -> list[str | None]:
    import json

    return [v if v is None or isinstance(v, str) else json.dumps(v) for v in found]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true and false"
    if isinstance(value, int | float):
        return "numbers"
    kinds: dict[type, str] = {str: "texts", list: "lists", dict: "objects"}
    return kinds[type(value)]
