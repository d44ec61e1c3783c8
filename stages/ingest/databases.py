"""Owns the way to a database: which may be reached, as whom, through which driver, to read only."""

from __future__ import annotations

import contextlib
import difflib
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib import parse

from stages import hosts, kit, sources
from stages.ingest import refusals

if TYPE_CHECKING:
    import sqlalchemy as sa

_OPTIONS = frozenset(
    {
        "application_name",
        "channel_binding",
        "charset",
        "client_encoding",
        "connect_timeout",
        "gssencmode",
        "sslmode",
        "target_session_attrs",
    }
)
"""What a URL's query may say. Others name hosts, sockets, files and libraries past our checks."""
_SHORT = re.compile(r"adbc\+(\w+):(?!//)(.*)", re.DOTALL)
_ADBC = "adbc+"


class Malformed(kit.DataFault):
    """A text is not a database's URL, or leaves out what is needed."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the database's URL can't be used: {reason}",
            hint="as postgresql://user@host/database, sqlite:///file.db, adbc+sqlite:file.db",
            path=refusals.URL,
        )


class SecretInUrl(kit.NotAllowed):
    """A URL holds a password, which a request must not."""

    def __init__(self) -> None:
        super().__init__(
            "a database's URL holds a password",
            hint='say where it is kept instead: "password": {"env": "NAME"} or {"file": "/path"}',
            path=refusals.URL,
        )


class OptionRefused(kit.NotAllowed):
    """A URL has an option that may lead past what is checked."""

    def __init__(self, option: str) -> None:
        super().__init__(
            f"a database's URL may not have the option {option!r}",
            hint=f"allowed are {', '.join(sorted(_OPTIONS))}",
            path=refusals.URL,
        )


class NoDriver(kit.DataFault):
    """The driver that a URL asks for is not installed, or can't be used here."""

    def __init__(self, driver: str, hint: str, reason: str = "is not installed") -> None:
        super().__init__(f"the database driver {driver!r} {reason}", hint=hint, path=refusals.URL)
        self.driver = driver


class Place(NamedTuple):
    """A database that may be read, by what its driver needs to get there."""

    name: str
    """For messages and reports: no user, no password, no options."""
    url: sa.URL
    file: pathlib.Path | None
    """Of SQLite; it exists."""
    addresses: list[str]
    """Of the host, as they were judged."""
    trusted: bool
    """The configuration names the host: its name may be looked up again, a secret sent to it."""
    adbc: str | None
    """The ADBC driver's name; SQLAlchemy reads it otherwise."""


def place(url: str, driver: str | None, services: kit.Services) -> Place:
    """Judge a URL; raise NotAllowed, Malformed, Missing or HostUnknown."""
    parsed, adbc = _parsed(url, driver)
    if parsed.password is not None:
        raise SecretInUrl
    if refused := sorted(set(parsed.query) - _OPTIONS):
        raise OptionRefused(refused[0])
    with _at_url():
        if parsed.get_backend_name() == "sqlite":
            file = _file(parsed, services)
            return Place(_shown(parsed), parsed, file, [], trusted=True, adbc=adbc)
        if not parsed.host:
            raise Malformed("it names no host")
        addresses = hosts.check(parsed.host, services)
    trusted = hosts.is_listed(parsed.host, services)
    return Place(_shown(parsed), parsed, None, addresses, trusted, adbc)


def shown(url: str) -> str:
    """Write a URL without user, password and options; raise Malformed."""
    return _shown(_parsed(url, None)[0])


def _shown(url: sa.URL) -> str:
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(username=None, password=None, query={}).render_as_string()


def _parsed(text: str, driver: str | None) -> tuple[sa.URL, str | None]:
    import sqlalchemy as sa

    if short := _SHORT.fullmatch(text):
        text = f"{_ADBC}{short[1]}:///{short[2]}"
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise Malformed("it is not of the form of one") from error
    if url.drivername.startswith(_ADBC):
        driver = url.drivername.removeprefix(_ADBC)
        url = url.set(drivername=driver)
    return url, driver


@contextlib.contextmanager
def _at_url() -> Iterator[None]:
    """Let what the checks of URIs say point to this stage's parameter."""
    try:
        yield
    except kit.StageFault as fault:
        fault.path = refusals.URL
        raise


def _file(url: sa.URL, services: kit.Services) -> pathlib.Path:
    if url.host or not url.database or url.database.startswith((":memory:", "file:")):
        raise Malformed("SQLite's names a file, after three slashes; an absolute one after four")
    path = sources.local_path(url.database, services)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else None
        names = sorted(each.name for each in folder.iterdir()) if folder else []
        raise sources.Missing(url.database, difflib.get_close_matches(path.name, names, n=3))
    return path


def read_only(file: pathlib.Path) -> str:
    """Give the URI by which SQLite opens a file without the right to write."""
    return f"file:{parse.quote(str(file))}?mode=ro"
