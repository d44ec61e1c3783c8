"""Owns the serving host's folder: who holds it, where it can be reached, which port is its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

import msgspec

from agent import private

NOTE, LOCK, PORT, LOG = "host.json", "host.lock", "port", "host.log"


class AlreadyServed(Exception):
    """Another serving host holds the folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(f"a serving host holds {folder} already")
        self.folder = folder


class Note(msgspec.Struct, frozen=True):
    """Where a serving host can be reached."""

    pid: int
    url: str


def folder(data: pathlib.Path) -> pathlib.Path:
    """Give the serving host's part of an agent's data folder."""
    return data / "serving"


@contextlib.contextmanager
def held(own: pathlib.Path) -> Iterator[None]:
    """Hold the folder while the context lasts; the kernel lets go of it for who is killed."""
    private.folder(own)
    with (own / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyServed(own) from None
        yield


def is_held(own: pathlib.Path) -> bool:
    """Tell whether a serving host holds the folder."""
    if not (own / LOCK).exists():
        return False
    with (own / LOCK).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def note(own: pathlib.Path, url: str) -> None:
    """Leave the note of this process."""
    private.write(own / NOTE, msgspec.json.encode(Note(os.getpid(), url)))


def read(own: pathlib.Path) -> Note | None:
    """Read the note of a serving host that is there."""
    try:
        found = msgspec.json.decode((own / NOTE).read_bytes(), type=Note)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if is_held(own) else None


def is_ours(own: pathlib.Path) -> bool:
    """Tell whether the note is still there, and of this process: else the folder is another's."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((own / NOTE).read_bytes(), type=Note).pid == os.getpid()
    return False


def last_port(own: pathlib.Path) -> int:
    """Give the port of the last start; 0 where there was none."""
    with contextlib.suppress(OSError, ValueError):
        return int((own / PORT).read_text())
    return 0


def keep_port(own: pathlib.Path, port: int) -> None:
    """Keep the port for the next start, so that whoever asks finds the models again."""
    (own / PORT).write_text(str(port))
