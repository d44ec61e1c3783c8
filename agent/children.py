"""Owns child processes: they end with their parent, and are ended by pid."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import pathlib
import signal
import sys
from collections.abc import Mapping, Sequence

import structlog

from agent import tasks

log = structlog.get_logger()

_PR_SET_PDEATHSIG = 1
_STOP_TIMEOUT_S = 10.0


def _die_with_parent() -> None:
    """Have the kernel end this child when its parent is gone, kill -9 included (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def start(
    command: Sequence[str], log_file: pathlib.Path, env: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start a child that writes to `log_file` and does not outlive this process."""
    with log_file.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            preexec_fn=_die_with_parent,
            start_new_session=True,  # a terminal's Ctrl-C is for the agent, which stops it in order
        )


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a child: ask, then kill."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        log.warning("child.killed", pid=process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Kept:
    """A child that is started again when it ends by itself."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_file: pathlib.Path,
        *,
        env: Mapping[str, str] | None = None,
        again_after_s: float = 1,
    ) -> None:
        self._name = name
        self._command = command
        self._log_file = log_file
        self._env = env
        self._again_after_s = again_after_s
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Give the process id, while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and running else None

    async def start(self) -> None:
        """Start it and keep it."""
        self._process = await start(self._command, self._log_file, self._env)
        self._watch = asyncio.create_task(self._keep(self._process), name=f"keep {self._name}")

    async def stop(self) -> None:
        """End it for good."""
        if self._watch is not None:
            await tasks.end(self._watch)
        if self._process is not None:
            await stop(self._process)

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        while True:
            code = await process.wait()
            log.warning("child.ended", child=self._name, code=code, log=str(self._log_file))
            await asyncio.sleep(self._again_after_s)
            process = self._process = await start(self._command, self._log_file, self._env)
