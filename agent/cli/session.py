"""Owns what every command needs: the options, the settings, and a way to the running agent."""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agent import address, config, layers
from agent.cli import console

if TYPE_CHECKING:
    from protocol import client

T = TypeVar("T")
TAKES_VALUE = ("--config", "--set", "--url", "--sign-with")


class Options(msgspec.Struct, frozen=True):
    """The options that every command takes, wherever they stand."""

    json: bool = False
    config: pathlib.Path | None = None
    overrides: tuple[str, ...] = ()
    url: str = ""
    sign_with: str = ""


def split(arguments: Sequence[str]) -> tuple[Options, list[str]]:
    """Take the common options out of the arguments; what follows `--` is left alone."""
    rest: list[str] = []
    given: dict[str, list[str]] = {name: [] for name in TAKES_VALUE}
    as_json = False
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif word == "--json":
            as_json = True
        elif name in TAKES_VALUE and (equals or (value := next(words, ""))):
            given[name].append(value)
        else:
            rest.append(word)
    path, url = given["--config"][-1:], given["--url"][-1:]
    options = Options(
        json=as_json,
        config=pathlib.Path(path[0]) if path else None,
        overrides=tuple(given["--set"]),
        url=url[0] if url else "",
        sign_with=(given["--sign-with"] or [""])[-1],
    )
    return options, rest


class Session:
    """One call of the program."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @property
    def json(self) -> bool:
        """Tell whether a program reads what we print."""
        return self.options.json

    def loaded(self) -> layers.Loaded:
        """Read the configuration; a mistake in it ends the command."""
        try:
            return layers.resolve(self.options.config, os.environ, self.options.overrides)
        except config.ConfigError as error:
            console.stop("invalid_field", str(error))

    @property
    def settings(self) -> config.Settings:
        """Give the effective settings."""
        return self.loaded().settings

    def find_agent(self) -> address.Address:
        """Find the bus: `--url`, the configured URL, or the agent of the data folder."""
        settings = self.settings
        prefix = settings.nats.prefix
        if url := self.options.url or settings.nats.url:
            return address.Address(url, 0, prefix)
        found = address.read(settings.data_path)
        if found is None:
            console.stop(
                "unavailable", f"no agent is running in {settings.data_path}", hint=console.NO_AGENT
            )
        if not _alive(found.pid):
            message = f"the agent of {settings.data_path} (process {found.pid}) is gone"
            console.stop("unavailable", message, hint=console.NO_AGENT)
        return found

    def ask(self, talk: Callable[[client.Client], Awaitable[T]]) -> T:
        """Connect, let `talk` do its work, and disconnect; refusals end the command."""
        return asyncio.run(self._ask(self.find_agent(), talk))

    async def _ask(
        self, where: address.Address, talk: Callable[[client.Client], Awaitable[T]]
    ) -> T:
        from agent.cli import connect

        sign_with = self.options.sign_with or self.settings.security.signing_key
        async with connect.connected(where, self.settings, sign_with=sign_with) as agent:
            return await talk(agent)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
