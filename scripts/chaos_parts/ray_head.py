"""Owns a Ray cluster of its own processes, whose head can be killed and started again."""

from __future__ import annotations

import asyncio
import os
import pathlib
import re
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence

import psutil

from agent import children

_READY_S = 60.0
_HEAD = ("gcs_server", "raylet")
_WORKER = re.compile(r"ray::(\w+:)?Worker\b")
"""The title of a worker, by its name or without; what it was last asked may follow."""


class RayHead:
    """A head node on loopback; agents reach it by its address and a token."""

    def __init__(
        self,
        folder: pathlib.Path,
        cpus: int,
        env: Mapping[str, str] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._more = more
        self._cpus = cpus
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()
        token = folder / "ray-token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DEDUP_LOGS": "0",
            **(env or {}),
        }
        """Of the head, and of every driver."""

    @property
    def address(self) -> str:
        """Say where other drivers find it."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        program = str(pathlib.Path(sys.executable).with_name("ray"))
        command = [program, "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
        command += [f"--port={self.port}", f"--num-cpus={self._cpus}", "--include-dashboard=false"]
        command += [f"--object-store-memory={256 * 2**20}", "--log-style=record", *self._more]
        log = self._folder / "ray.log"
        self._process = await children.start(command, log, {**os.environ, **self.env})
        async with asyncio.timeout(_READY_S):
            while not (self._found("raylet") and await _answers(self.port)):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)

    def kill(self, *names: str) -> None:
        """End the head's own processes, or these, as kill -9 does; what hangs on them follows."""
        for name in names or _HEAD:
            for process in self._found(name):
                process.kill()

    def workers(self) -> list[psutil.Process]:
        """Give the processes that run stages."""
        return [p for p in self._all() if _WORKER.match(_title(p))]

    async def stop(self) -> None:
        """End it all."""
        everyone = self._all()
        if self._process is not None:
            await children.stop(self._process)
        for process in everyone:
            if process.is_running():
                process.kill()

    def _found(self, name: str) -> list[psutil.Process]:
        return [p for p in self._all() if name in _title(p).split(" ")[0]]

    def _all(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
