"""Owns the reading of a URI: what the configuration allows, brought here as a file, and digested.

Every stage that reads from outside goes through here, so that no other place decides what is safe.
"""

from __future__ import annotations

import bz2
import contextlib
import difflib
import glob
import gzip
import hashlib
import lzma
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any
from urllib import parse

from stages import hosts, kit

if TYPE_CHECKING:
    import httpx

PATH = "$.uri"
CHUNK = 1 << 20
MOST_FILES = 10_000
_FILE = ("", "file")
_WEB = ("http", "https")
_CODINGS = ("", "identity", "gzip", "deflate")
_BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory")
"""Schemes whose URIs name a bucket; what others name is a host."""
_WILD = frozenset("*?[")
_TOO_MANY, _NO_SERVER_ERROR = 429, 500
_REFUSED, _GONE = (401, 403), (404, 410)


class OutsideRoots(kit.NotAllowed):
    """A path leads out of the folders that may be read. It says nothing of what is there."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{shown(uri)!r} is not in a folder that may be read",
            hint="the agent's setting access.data_roots names the folders; relative paths start "
            "at the first",
            path=PATH,
        )


class Missing(kit.DataFault):
    """There is nothing to read at a URI."""

    def __init__(self, uri: str, near: Iterable[str] = ()) -> None:
        names = " or ".join(repr(name) for name in near)
        hint = f"did you mean {names}?" if names else "look at the path"
        super().__init__(f"there is no file {shown(uri)!r}", hint=hint, path=PATH)
        self.uri = uri


class Unreadable(kit.DataFault):
    """What is at a URI can't be read."""

    def __init__(self, uri: str, reason: str, hint: str | None = None) -> None:
        super().__init__(f"{shown(uri)!r} can't be read: {reason}", hint=hint, path=PATH)
        self.uri = uri


class TooLarge(kit.DataFault):
    """A source is larger than one may be, as it lies or once it is unpacked."""

    def __init__(self, uri: str, limit: int, found: int | None = None) -> None:
        size = f"{found} bytes" if found is not None else "more bytes"
        super().__init__(
            f"{shown(uri)!r} holds {size}, and {limit} are allowed",
            hint="read fewer columns, or raise the agent's setting access.max_input_bytes",
            path=PATH,
        )


class Unavailable(kit.Transient):
    """A source can't be reached at the moment."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"{shown(uri)!r} can't be reached: {reason}", path=PATH)
        self.uri = uri


def shown(uri: str) -> str:
    """Write a URI without what may be secret in it: user, password, query."""
    try:
        parts = hosts.split(uri)
    except hosts.BadUri:
        return hosts.bare(uri)
    if parts.scheme in _FILE:
        return uri
    place = parts.netloc.rpartition("@")[2]
    return parse.urlunsplit((parts.scheme, place, parts.path, "", ""))


def name(uri: str) -> str:
    """Give the last part of a URI's path, in small letters, for its extension."""
    path = _path_of(uri) if is_local(uri) else hosts.split(uri).path
    return pathlib.PurePosixPath(path).name.lower()


def is_local(uri: str) -> bool:
    """Tell a path or `file:` URI from what lies elsewhere."""
    return hosts.split(uri).scheme in _FILE


def local_path(uri: str, services: kit.Services) -> pathlib.Path:
    """Give the real path of a path or `file:` URI, which need not exist.

    Raises OutsideRoots, wherever `..` and links lead, and SchemeRefused.
    """
    _require_scheme(uri, services)
    roots = [pathlib.Path(root).resolve() for root in services.data_roots]
    asked = _path_of(uri)
    if not roots or "\0" in asked:
        raise OutsideRoots(uri)
    try:
        real = (roots[0] / asked).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise OutsideRoots(uri) from error
    within = [root for root in roots if real.is_relative_to(root)]
    if not within or any(_is_closed(real, closed, within) for closed in services.closed):
        raise OutsideRoots(uri)
    return real


def _is_closed(real: pathlib.Path, closed: str, within: list[pathlib.Path]) -> bool:
    """Tell whether a path is, or lies in, what is closed; a root within that opens its part."""
    place = pathlib.Path(closed).resolve()
    return real.is_relative_to(place) and not any(root.is_relative_to(place) for root in within)


def _require_scheme(uri: str, services: kit.Services) -> str:
    scheme = hosts.split(uri).scheme or "file"
    if scheme not in services.allowed_schemes:
        raise hosts.SchemeRefused(scheme, services)
    return scheme


def _path_of(uri: str) -> str:
    parts = hosts.split(uri)
    if parts.scheme == "":
        return uri
    if parts.netloc not in ("", "localhost"):
        raise OutsideRoots(uri)
    return parse.unquote(parts.path)


def _check_elsewhere(uri: str, services: kit.Services) -> None:
    """Judge the host of a URI that its own file system reaches.

    It looks the name up again, so the configuration must name the host. Raises HostRefused.
    """
    parts = hosts.split(uri)
    if parts.scheme in _BUCKETS:
        return
    host = parts.hostname or ""
    if not hosts.is_listed(host, services):
        raise hosts.HostRefused(host, f"{parts.scheme}: reaches only hosts that are named")
    hosts.check(host, services)


def client(services: kit.Services, **settings: Any) -> httpx.Client:
    """Make an HTTP client that reaches only what `check_url` allows, redirects included."""
    return hosts.client(services, **settings)


def expand(uri: str, services: kit.Services) -> list[str]:
    """List the files that a local pattern as `scans/*.sarif` stands for; others stand for one.

    Raises Missing where there are none, and OutsideRoots if one of them lies outside.
    """
    if not is_local(uri) or not _WILD & set(_path_of(uri)) or local_path(uri, services).exists():
        return [uri]
    before, _, _ = min((_path_of(uri).partition(char) for char in _WILD), key=lambda p: len(p[0]))
    folder = local_path(before.rpartition("/")[0] + "/" if "/" in before else ".", services)
    pattern = _path_of(uri)[before.rfind("/") + 1 :]
    if ".." in pattern.split("/"):
        raise OutsideRoots(uri)
    found = sorted(glob.glob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207 - root_dir
    files = [str(folder / each) for each in found[:MOST_FILES]]
    files = [each for each in files if local_path(each, services).is_file()]
    if not files:
        raise Missing(uri)
    return files


def fetch(uri: str, context: kit.Context) -> pathlib.Path:
    """Give a file with the content of a URI: a local one as it is, others brought to the workdir.

    Raises NotAllowed, Missing, Unreadable, TooLarge or a Transient.
    """
    services = context.services
    scheme = _require_scheme(uri, services)
    if scheme == "file":
        return _present(uri, services)
    target = context.workdir / f"fetched-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    if scheme in _WEB:
        _download(uri, context, target)
    else:
        _copy(uri, context, target)
    return target


def _present(uri: str, services: kit.Services) -> pathlib.Path:
    path = local_path(uri, services)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Missing(uri, _near(path, services)) from error
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise Unreadable(uri, str(error.strerror)) from error
    if not path.is_file():
        raise Unreadable(uri, "it is not a file", "name a file, not a folder")
    size = found.st_size
    if size > services.max_input_bytes:
        raise TooLarge(uri, services.max_input_bytes, size)
    return path


def _near(path: pathlib.Path, services: kit.Services) -> list[str]:
    """Name files of the same folder that look alike; the folder lies within the roots."""
    roots = [pathlib.Path(root).resolve() for root in services.data_roots]
    if path in roots or not path.parent.is_dir():
        return []
    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:
        return []
    return difflib.get_close_matches(path.name, sorted(names), n=3)


def _download(uri: str, context: kit.Context, target: pathlib.Path) -> None:
    with translated(uri), client(context.services) as web, web.stream("GET", uri) as answer:
        require_good(uri, answer)
        _keep(uri, answer.iter_bytes(CHUNK), context, target)


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Raise Unavailable or Unreadable for what an HTTP client raises."""
    import httpx

    try:
        yield
    except httpx.InvalidURL as error:
        raise Unreadable(uri, str(error)) from error
    except (httpx.TooManyRedirects, httpx.DecodingError, httpx.UnsupportedProtocol) as error:
        raise Unreadable(uri, str(error)) from error
    except httpx.TransportError as error:
        raise Unavailable(uri, str(error) or type(error).__name__) from error


def require_good(uri: str, answer: httpx.Response) -> None:
    """Raise Missing, Unavailable or Unreadable for an answer that is not what was asked for."""
    status = answer.status_code
    if answer.is_success:
        _require_plain(uri, answer.headers.get("content-encoding", ""))
        return
    if status in _GONE:
        raise Missing(uri)
    if status == _TOO_MANY or status >= _NO_SERVER_ERROR:
        raise Unavailable(uri, f"the server answers {status}")
    hint = "the server asks for credentials" if status in _REFUSED else None
    raise Unreadable(uri, f"the server answers {status}", hint)


def _require_plain(uri: str, coding: str) -> None:
    """Refuse codings within codings: a chunk of the answer would unpack without bounds."""
    if coding.strip().lower() not in _CODINGS:
        raise Unreadable(uri, f"the server packs its answer as {coding[:80]!r}")


def _copy(uri: str, context: kit.Context, target: pathlib.Path) -> None:
    try:
        system, path = _file_system(uri, context.services)
        with system.open(path, "rb") as source:
            _keep(uri, iter(lambda: source.read(CHUNK), b""), context, target)
    except FileNotFoundError as error:
        raise Missing(uri) from error
    except (PermissionError, IsADirectoryError) as error:
        raise Unreadable(uri, str(error)) from error
    except OSError as error:
        raise Unavailable(uri, str(error)) from error


def _file_system(uri: str, services: kit.Services) -> tuple[Any, str]:
    """Open an fsspec file system; a chain as `s3::file:` would lead around the roots."""
    import fsspec

    if "::" in uri:
        raise Unreadable(uri, "chains of file systems are not followed")
    _check_elsewhere(uri, services)
    try:
        return fsspec.core.url_to_fs(uri)  # type: ignore[no-any-return]
    except ImportError as error:
        raise Unreadable(uri, str(error), "install it where the stages run") from error
    except ValueError as error:
        raise Unreadable(uri, str(error)) from error


def _keep(uri: str, chunks: Iterable[bytes], context: kit.Context, target: pathlib.Path) -> None:
    """Write chunks to a file and stop at the limit, whatever a header said of the length."""
    limit, size = context.services.max_input_bytes, 0
    with target.open("wb") as sink:
        for chunk in chunks:
            context.check()
            size += len(chunk)
            if size > limit:
                raise TooLarge(uri, limit)
            sink.write(chunk)


def digest(uri: str, services: kit.Services) -> str | None:
    """Tell one content of a URI from another; None where only reading it all would tell.

    Local files are digested, others told by what their server says (ETag and the like). What is
    not there is `missing`: its coming changes the outcome. Raises NotAllowed.
    """
    scheme = _require_scheme(uri, services)
    if scheme == "file":
        path = local_path(uri, services)
        return _digest_of(path) if path.is_file() else "missing"
    return _tag(uri, services) if scheme in _WEB else _key(uri, services)


def _digest_of(path: pathlib.Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _tag(uri: str, services: kit.Services) -> str | None:
    import httpx

    try:
        with client(services) as web:
            answer = web.head(uri)
    except (httpx.HTTPError, httpx.InvalidURL, kit.Transient):
        return None
    if answer.status_code in _GONE:
        return "missing"
    tag = answer.headers.get("etag")
    return f"{answer.url}|{tag}" if answer.is_success and tag else None


def _key(uri: str, services: kit.Services) -> str | None:
    try:
        system, path = _file_system(uri, services)
        system.invalidate_cache()
        return str(system.ukey(path))
    except FileNotFoundError:
        return "missing"
    except (OSError, NotImplementedError, Unreadable):
        return None


def digests(uris: Iterable[str], services: kit.Services) -> str | None:
    """Digest several URIs as one; None if one of them can't be told."""
    found = [digest(uri, services) for uri in uris]
    if any(each is None for each in found):
        return None
    return hashlib.sha256("\n".join(map(str, found)).encode()).hexdigest()


def decompressed(uri: str, path: pathlib.Path, context: kit.Context) -> tuple[pathlib.Path, str]:
    """Unpack `.gz`, `.bz2` and `.xz` into the workdir, up to the limit; give file and plain name.

    Raises TooLarge or Unreadable.
    """
    known = name(uri)
    packed = _opener(path, pathlib.PurePosixPath(known).suffix)
    if packed is None:
        return path, known
    target = context.workdir / f"plain-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    try:
        with packed as source:
            _keep(uri, iter(lambda: source.read(CHUNK), b""), context, target)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise Unreadable(uri, f"it can't be unpacked: {error}") from error
    return target, known.rpartition(".")[0]


def _opener(path: pathlib.Path, suffix: str) -> IO[bytes] | None:
    if suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if suffix == ".bz2":
        return bz2.open(path)
    return lzma.open(path) if suffix == ".xz" else None
