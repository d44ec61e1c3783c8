"""Owns an agent in a process of its own, with the stages of the tests."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import sys

import msgspec

from agent import config, service
from tests.service import helpers

ROOT = pathlib.Path(__file__).parents[2]


class Agent:
    """An agent that a test may kill, freeze, stop and start again."""

    def __init__(self, folder: pathlib.Path, settings: config.Settings) -> None:
        self._settings = folder / f"{settings.agent_id}.json"
        self._settings.write_bytes(msgspec.json.encode(settings))
        self.log = folder / f"{settings.agent_id}.log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLPM_")}
        with self.log.open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.service.agent_process", str(self._settings)),
                cwd=ROOT,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        async with asyncio.timeout(helpers.WAIT_S):
            assert await self.process.stdout.readline(), self.log.read_text()[-3000:]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait until the process has ended, and give its exit status."""
        async with asyncio.timeout(helpers.WAIT_S):
            await self.process.stdout.read()
            return await self.process.wait()

    async def kill(self) -> None:
        """End it as kill -9 does."""
        if self.process is not None and self.process.returncode is None:
            self.send(signal.SIGKILL)
            await self.ended()


def main() -> None:
    settings = msgspec.json.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=config.Settings)
    asyncio.run(service.serve(settings, _tell, modules=helpers.MODULES))


def _tell(address: service.Address) -> None:
    print(msgspec.json.encode(address).decode(), flush=True)  # noqa: T201 - who started us waits for it


if __name__ == "__main__":
    main()
