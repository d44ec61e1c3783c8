"""Owns references to secrets: a request names where one is kept, never what it is."""

from __future__ import annotations

import fnmatch
import os
import pathlib

import msgspec

from stages import kit

MASK = "•••"


class NoSecret(kit.DataFault):
    """A secret that is referred to is not there, or is empty."""

    def __init__(self, place: str, path: str) -> None:
        super().__init__(
            f"there is no secret in {place}",
            hint="set it where the stage runs: on every node of the cluster",
            path=path,
        )


class SecretRefused(kit.NotAllowed):
    """The configuration does not let a request refer to this secret."""

    def __init__(self, place: str, path: str) -> None:
        super().__init__(
            f"{place} may not be referred to as a secret",
            hint="the agent's setting access.secrets names the variables and files that may be",
            path=path,
        )


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a secret is kept: an environment variable or a file, exactly one of them."""

    env: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        """Refuse neither and both."""
        if (self.env is None) == (self.file is None):
            msg = "a secret is referred to by exactly one of env and file"
            raise ValueError(msg)

    def read(self, services: kit.Services, path: str = "$") -> str:
        """Give the secret itself; it is kept nowhere. Raises SecretRefused or NoSecret."""
        name = self.env or os.path.normpath(str(self.file))
        place = f"the environment variable {name}" if self.env else f"the file {name}"
        if not any(fnmatch.fnmatchcase(name, allowed) for allowed in services.secrets):
            raise SecretRefused(place, path)
        found = os.environ.get(name, "") if self.env else _content(name)
        if not found:
            raise NoSecret(place, path)
        return found


def _content(file: str) -> str:
    try:
        return pathlib.Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def scrub(text: str, *found: str) -> str:
    """Mask these secrets wherever a text holds them."""
    for secret in sorted(filter(None, found), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
