"""Owns references to secrets: a request names where one is kept, never what it is."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import pathlib
from typing import Annotated

import msgspec

from stages import kit

MASK = "•••"

_Key = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*\Z")]


class NoSecret(kit.DataFault):
    """A secret that is referred to is not there, or is empty."""

    def __init__(self, place: str, path: str) -> None:
        super().__init__(
            f"there is no secret in {place}",
            hint="set it where the stage runs, on every node of the cluster, or in the bucket",
            path=path,
        )


class SecretRefused(kit.NotAllowed):
    """The configuration does not let a request refer to this secret."""

    def __init__(self, place: str, path: str) -> None:
        super().__init__(
            f"{place} may not be referred to as a secret",
            hint="the agent's setting access.secrets names what may be: variables, files, kv:KEY",
            path=path,
        )


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a secret is kept: an environment variable, a file or a key, exactly one of them."""

    env: str | None = None
    file: str | None = None
    kv: _Key | None = None
    """A key of the bus's bucket of secrets; `access.secrets` writes it as `kv:KEY`."""

    def __post_init__(self) -> None:
        """Refuse none and several."""
        if [self.env, self.file, self.kv].count(None) != 2:  # noqa: PLR2004 - all but one
            msg = "a secret is referred to by exactly one of env, file and kv"
            raise ValueError(msg)

    def read(self, services: kit.Services, path: str = "$") -> str:
        """Give the secret itself; it is kept nowhere. Raises SecretRefused or NoSecret."""
        name, place = self._place(services)
        if not any(fnmatch.fnmatchcase(name, allowed) for allowed in services.secrets):
            raise SecretRefused(place, path)
        found = self._found(name, services, path)
        if not found:
            raise NoSecret(place, path)
        return found

    def _place(self, services: kit.Services) -> tuple[str, str]:
        """Name the place as the configuration does, and for people."""
        if self.env is not None:
            return self.env, f"the environment variable {self.env}"
        if self.kv is not None:
            return f"kv:{self.kv}", f"the key {self.kv} of the bucket {services.secrets_bucket}"
        name = os.path.normpath(str(self.file))
        return name, f"the file {name}"

    def _found(self, name: str, services: kit.Services, path: str) -> str:
        if self.env is not None:
            return os.environ.get(name, "")
        if self.kv is None:
            return _content(name)
        try:
            return asyncio.run(_kept(self.kv, services))
        except kit.StageFault as fault:  # the bus is away, or does not let this user read
            fault.path = path
            raise


def _content(file: str) -> str:
    try:
        return pathlib.Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


async def _kept(key: str, services: kit.Services) -> str:
    from stages.ingest import jetstream

    if not services.nats_url:
        return ""
    bucket = services.secrets_bucket
    async with jetstream.connected(services) as reader:
        found = await reader.last(f"KV_{bucket}", f"$KV.{bucket}.{key}")
    return (found or b"").decode(errors="replace").strip()


def scrub(text: str, *found: str) -> str:
    """Mask these secrets wherever a text holds them."""
    for secret in sorted(filter(None, found), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
