"""Owns the note that a running agent leaves in its data folder: where it can be reached."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import msgspec

from agent import private

FILE = "agent.json"


class Address(msgspec.Struct, frozen=True):
    """Where a running agent can be reached."""

    nats_url: str
    """With the token of a server that the agent started itself."""
    pid: int
    prefix: str = "codeguardian"
    agent_id: str = ""


def read(folder: pathlib.Path) -> Address | None:
    """Read the note of a data folder; None where there is none, or none that can be read."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Address)
    except (OSError, msgspec.MsgspecError):
        return None


@contextlib.contextmanager
def noted(folder: pathlib.Path, address: Address) -> Iterator[None]:
    """Leave the note while the context lasts, for this user alone: it lets in."""
    path = folder / FILE
    private.write(path, msgspec.json.encode(address))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
