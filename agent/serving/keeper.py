"""Owns the agent's side of its serving host: started when it is needed, found again, never ended.

The host outlives the agent: it is no child of it, and knows it by its data folder alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import sys

import msgspec
import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client

from agent import config, ground, layers
from agent.execution import cluster
from agent.serving import desired, place
from protocol import codec, problems, serving, subjects

log = structlog.get_logger(__name__)

LOOK_S = 2.0
ASK_S = 5.0
START_S = 60.0
"""How long a host that was started may take to listen."""
_TOLD = ("data_dir", "artifacts", "ray", "serving", "logs")


class NoHost(Exception):
    """Nobody serves models."""

    def __init__(self, log_file: pathlib.Path) -> None:
        super().__init__(f"no serving host answers; the log of our own is {log_file}")
        self.log_file = log_file


class Refused(Exception):
    """The host refuses; the problem says why."""

    def __init__(self, problem: problems.Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Keeper:
    """Starts the serving host of a data folder, and starts it again while there is a need."""

    def __init__(self, settings: config.Settings, nc: Client, names: subjects.Subjects) -> None:
        self._settings = settings
        self._nc = nc
        self._names = names
        self._own = place.folder(settings.data_path)
        self._desired = desired.Desired(nc, names)
        self._pid: int | None = None

    @property
    def log_file(self) -> pathlib.Path:
        """Give the log of the host that was started here."""
        return self._own / place.LOG

    async def serve(self) -> None:
        """Start the host again whenever there is a model to serve and nobody does, until ended."""
        if not self._settings.serving.embedded:
            return
        while True:
            self._reap()
            with contextlib.suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
                if not place.is_held(self._own) and await self._is_needed():
                    self.start()
            await asyncio.sleep(LOOK_S)

    def start(self) -> None:
        """Start the host, unless it is there or starting; the lock decides between two."""
        if self._pid is not None or place.is_held(self._own):
            return
        self._own.mkdir(parents=True, exist_ok=True)
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        told = (os.POSIX_SPAWN_OPEN, 1, str(self.log_file), flags, 0o600)
        # Not by asyncio, which ends its children with itself.
        self._pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "agent.serving", "--until-idle"],
            self._environment(),
            file_actions=[nothing, told, (os.POSIX_SPAWN_DUP2, 1, 2)],
            setsid=True,
        )
        log.info("serving.started", pid=self._pid, log=str(self.log_file))

    async def ask(self, action: str, command: msgspec.Struct, patience_s: float) -> bytes:
        """Ask the host, starting it where none answers; give its reply's bytes.

        Asked again and again: the host attaches who asks for the same. Raises Refused, NoHost, or
        TimeoutError where it does not get done in time.
        """
        data, loop = codec.encode(command), asyncio.get_running_loop()
        end, missing = loop.time() + patience_s, loop.time() + START_S
        while loop.time() < end:
            try:
                reply = await self._nc.request(self._names.serving(action), data, timeout=ASK_S)
            except nats.errors.NoRespondersError:
                if not self._settings.serving.embedded or loop.time() > missing:
                    raise NoHost(self.log_file) from None
                self._reap()
                self.start()
                await asyncio.sleep(0.2)
            except (nats.errors.TimeoutError, nats.errors.ConnectionClosedError):
                missing = loop.time() + START_S
            else:
                return _answer(reply)
        raise TimeoutError

    async def tell(self, action: str, command: msgspec.Struct) -> bytes | None:
        """Ask the host once; None where there is none."""
        try:
            reply = await self._nc.request(
                self._names.serving(action), codec.encode(command), timeout=ASK_S
            )
        except nats.errors.NoRespondersError:
            return None
        return _answer(reply)

    async def wanted(self) -> list[desired.Entry]:
        """Give what is to be served."""
        return [entry for entry, _ in await self._desired.all() if entry.versions]

    async def _is_needed(self) -> bool:
        if not await self.wanted():
            return False
        try:
            return await self.tell("list", serving.EndpointQuery()) is None
        except Refused:
            return False

    def _reap(self) -> None:
        """Let the host that was started here go once it has ended."""
        if self._pid is None:
            return
        with contextlib.suppress(ChildProcessError):
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            if not ended:
                return
            log.info("serving.ended", pid=ended, code=os.waitstatus_to_exitcode(status))
        self._pid = None

    def _environment(self) -> dict[str, str]:
        """Tell the host what is configured here; the bus's URL only where it stays the same."""
        told = ground.told(self._settings, self._settings.nats.url, self._settings.serving)
        whole = msgspec.structs.replace(self._settings, data_dir=str(self._settings.data_path))
        given = {section: getattr(whole, section) for section in _TOLD}
        own = str((self._settings.data_path / cluster.TOKEN_FILE).resolve())
        if told.get(cluster.TOKEN_PATH) == own:
            del told[cluster.TOKEN_PATH]  # it is another after the agent's next start
        return told | layers.environment(given)


def _answer(reply: object) -> bytes:
    headers = getattr(reply, "headers", None) or {}
    data: bytes = getattr(reply, "data", b"")
    if "Nats-Service-Error-Code" in headers:
        raise Refused(codec.decode(data, problems.Problem))
    return data
