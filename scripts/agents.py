"""Owns an agent in a process of its own, as an operator starts it, that can be ended in any way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import Iterable, Mapping

import psutil

from agent import address, children

ROOT = pathlib.Path(__file__).parents[1]
_READY_S = 60.0


class NotReady(Exception):
    """An agent did not start."""

    def __init__(self, name: str, log: str) -> None:
        super().__init__(f"agent {name} did not start; its log ends:\n{log[-2000:]}")


class Agent:
    """`mlpm up`, again and again."""

    def __init__(
        self,
        name: str,
        folder: pathlib.Path,
        settings: Iterable[str],
        *,
        stages: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._data = folder / name
        self._command = [sys.executable, "-m", "agent", "up", "--stages", stages]
        for setting in (f"data_dir={self._data}", f"agent_id={name}", *settings):
            self._command += ["--set", setting]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLPM_")}
        self._env = {**inherited, "PYTHONPATH": str(ROOT), **(env or {})}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Tell whether the process is there."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Give the process id of the last start."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self._data.mkdir(parents=True, exist_ok=True)
        (self._data / address.FILE).unlink(missing_ok=True)
        self._process = await children.start(self._command, self.log, self._env)
        async with asyncio.timeout(_READY_S):
            while not (self._data / address.FILE).exists():
                if not self.running:
                    raise NotReady(self.name, self.log.read_text())
                await asyncio.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    async def wait_ended(self) -> int:
        """Wait until it has ended; give its exit status."""
        assert self._process is not None
        return await self._process.wait()

    async def kill(self) -> None:
        """End it as kill -9 does."""
        if self.running:
            self.send(signal.SIGKILL)
            await self.wait_ended()

    async def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            await children.stop(self._process)

    def specialist(self) -> psutil.Process | None:
        """Give the specialist that it keeps."""
        if self._process is None or not self.running:
            return None
        with contextlib.suppress(psutil.Error):  # either may be gone by now
            for child in psutil.Process(self._process.pid).children():
                if "agent.specialist" in child.cmdline():
                    return child
        return None
