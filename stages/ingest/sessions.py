"""Owns the reading session with a database: opened, watched, its errors translated, closed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol
from urllib import parse

from stages import kit, secrets
from stages.ingest import arrow_sessions, databases, guard, refusals, row_sessions, statements

if TYPE_CHECKING:
    import pyarrow as pa

_KEPT = ("/", "", " +", "+")
"""What the writers of URIs leave as it is."""


class Session(Protocol):
    """An open connection that reads."""

    def read(self, statement: statements.Statement, bounds: guard.Guard) -> pa.Table:
        """Read the rows of a statement; raise what the driver raises, or a fault."""
        ...

    def stop(self) -> None:
        """Stop what is being read, from another thread."""
        ...

    def tables(self) -> list[str]:
        """Name the tables that there are."""
        ...


@contextlib.contextmanager
def opened(
    found: databases.Place, secret: str, bounds: guard.Guard, settings: dict[str, Any]
) -> Iterator[Session]:
    """Connect to read; whatever the driver raises becomes a fault. It is closed at the end."""
    driver = arrow_sessions if found.adbc else row_sessions
    with contextlib.ExitStack() as stack:
        with _translated(found, secret, refusals.Away):
            reader = stack.enter_context(driver.opened(found, secret, bounds, settings))
        with bounds.watching(reader.stop), _translated(found, secret, refusals.BadQuery, reader):
            yield reader


@contextlib.contextmanager
def _translated(
    found: databases.Place, secret: str, otherwise: refusals.Fault, reader: Session | None = None
) -> Iterator[None]:
    try:
        yield
    except kit.StageFault:
        raise
    except Exception as error:
        if not _is_driver(error):
            raise
        cause = getattr(error, "orig", None) or error
        said = secrets.scrub(str(cause), *_forms(secret))
        fault = refusals.of(cause, found.name, said, otherwise)
        if isinstance(fault, refusals.UnknownTable) and reader is not None:
            fault = refusals.UnknownTable(found.name, said, reader.tables())
        raise fault from (error if said == str(cause) else None)  # a cause is written to logs


def _forms(secret: str) -> set[str]:
    """Give the ways in which a secret may stand in a URI."""
    return {secret, parse.quote_plus(secret), *(parse.quote(secret, safe=s) for s in _KEPT)}


def _is_driver(error: BaseException) -> bool:
    """Tell a driver's error from a mistake of ours: those of SQLAlchemy and of PEP 249."""
    names = {cls.__module__.partition(".")[0] + "." + cls.__name__ for cls in type(error).__mro__}
    return "sqlalchemy.SQLAlchemyError" in names or any(
        name.endswith((".DatabaseError", ".InterfaceError")) for name in names
    )
