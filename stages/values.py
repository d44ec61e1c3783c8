"""Owns the kinds of data that travel between stages, and how each is kept in a file."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Value:
    """A kind of data. Nothing here is ever pickled."""

    kind: ClassVar[str]
    media_type: ClassVar[str]

    def save(self, path: pathlib.Path) -> None:
        """Write it to a new file."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Read it back; a table is mapped into memory, not copied."""
        raise NotImplementedError

    def rows(self) -> int | None:
        """Count rows or elements, where that means something."""
        return None

    def schema(self) -> list[tuple[str, str, bool]] | None:
        """List columns as (name, Arrow type, nullable), where there are any."""
        return None


class Table(Value):
    """Rows and typed columns: an Arrow table, seen as pandas where a library wants it."""

    kind = "table"
    media_type = "application/vnd.apache.arrow.file"

    def __init__(self, arrow: pa.Table) -> None:
        self.arrow = arrow

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame) -> Self:
        """Take a data frame without its index (a meaningful index becomes a column first)."""
        import pyarrow as pa

        return cls(pa.Table.from_pandas(frame, preserve_index=False))

    def pandas(self) -> pd.DataFrame:
        """Convert to a data frame with a fresh range index."""
        frame: pd.DataFrame = self.arrow.to_pandas()
        return frame

    @property
    def columns(self) -> list[str]:
        """Name the columns in order."""
        return list(self.arrow.column_names)

    def save(self, path: pathlib.Path) -> None:
        """Write an uncompressed Arrow IPC file, so that it can be mapped."""
        import pyarrow as pa

        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self.arrow.schema) as writer:
            writer.write_table(self.arrow)

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Map an Arrow IPC file."""
        import pyarrow as pa

        return cls(pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all())

    def rows(self) -> int | None:
        """Count rows."""
        return int(self.arrow.num_rows)

    def schema(self) -> list[tuple[str, str, bool]] | None:
        """List columns as (name, Arrow type, nullable)."""
        return [(f.name, str(f.type), f.nullable) for f in self.arrow.schema]


class Json(Value):
    """Plain data."""

    media_type = "application/json"

    def __init__(self, data: Any) -> None:
        self.data = data

    def save(self, path: pathlib.Path) -> None:
        """Write JSON."""
        path.write_bytes(self.dump())

    def dump(self) -> bytes:
        """Give JSON with sorted keys, so that equal content has an equal digest."""
        return msgspec.json.encode(self.data, order="sorted")

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Read JSON."""
        return cls.parse(path.read_bytes())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Take JSON."""
        return cls(msgspec.json.decode(data))


class Metrics(Json):
    """Named numbers (`values`), and whatever explains them (`details`: curves, confusion, slices).

    The numbers are what `when` conditions and the registry see.
    """

    kind = "metrics"

    def __init__(self, values: dict[str, float], details: dict[str, Any] | None = None) -> None:
        super().__init__({"values": values, "details": details or {}})

    @property
    def values(self) -> dict[str, float]:
        """Give the named numbers."""
        return self.data["values"]  # type: ignore[no-any-return]

    @property
    def details(self) -> dict[str, Any]:
        """Give what explains them."""
        return self.data["details"]  # type: ignore[no-any-return]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Take JSON."""
        return cls(**msgspec.json.decode(data))


class Items(Json):
    """A list of JSON values to fan out over."""

    kind = "list"

    def rows(self) -> int | None:
        """Count elements."""
        return len(self.data)


class Report(Json):
    """Findings about data or a model as plain data: `{"title": …, "summary": …, …}`."""

    kind = "report"


class Text(Value):
    """A document: HTML by default."""

    kind = "text"
    media_type = "text/html; charset=utf-8"

    def __init__(self, text: str) -> None:
        self.text = text

    def save(self, path: pathlib.Path) -> None:
        """Write UTF-8."""
        path.write_text(self.text, encoding="utf-8")

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Read UTF-8."""
        return cls(path.read_text(encoding="utf-8"))


class FeatureStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One unfitted transformation: an encoder's name, the columns it takes, its parameters."""

    encoder: str
    columns: list[str]
    params: dict[str, Any] = {}
    reason: str = ""
    """Why it was chosen, for the report."""


class FeaturePlan(Value):
    """Unfitted feature engineering as data: fitted anew on the training rows wherever it is used.

    Being unfitted is what rules leakage out: a fold, or a train split, fits its own copy.
    """

    kind = "features"
    media_type = "application/json"

    def __init__(self, steps: list[FeatureStep]) -> None:
        self.steps = steps

    def save(self, path: pathlib.Path) -> None:
        """Write JSON."""
        path.write_bytes(msgspec.json.encode(self.steps, order="sorted"))

    @classmethod
    def load(cls, path: pathlib.Path) -> Self:
        """Read JSON."""
        return cls(msgspec.json.decode(path.read_bytes(), type=list[FeatureStep]))
