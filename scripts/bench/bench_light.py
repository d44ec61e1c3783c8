"""Measures what is light: imports, the program's help, the agent's start and memory at rest."""

from __future__ import annotations

import asyncio
import pathlib
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL

import psutil

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import measure

from agent import children, config
from agent.bus import server
from agent.execution import cluster

ROUNDS = 7
REST_S = 3.0
READY_LIMIT_S, MEMORY_LIMIT_MB = 3.0, 200


async def main() -> None:
    """Measure."""
    measure.heading()
    for name, arguments in (
        ("import protocol.client", ["-c", "import protocol.client"]),
        ("mlpm --help", ["-m", "agent", "--help"]),
    ):
        costs, floors = await measure.against_floor(
            lambda arguments=arguments: python(*arguments), lambda: python("-c", ""), ROUNDS
        )
        measure.tell(name, costs, floors)
    with tempfile.TemporaryDirectory() as folder:
        await _agent(pathlib.Path(folder))


async def python(*arguments: str) -> None:
    """Run the interpreter to its end."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=DEVNULL)
    assert await process.wait() == 0


async def _agent(folder: pathlib.Path) -> None:
    """Start an agent beside a bus and a cluster that are up already."""
    held = cluster.start(config.Ray(), folder)
    try:
        async with server.EmbeddedServer(folder / "nats") as bus:
            command = [sys.executable, "-m", "agent", "up", "--set", f"data_dir={folder / 'data'}"]
            command += ["--set", f"nats.url={bus.url}", "--set", f"ray.address={held.address}"]
            command += ["--set", "specialist.embedded=false"]
            (folder / "data").mkdir()
            started = time.perf_counter()
            process = await children.start(command, folder / "up.log")
            address = folder / "data" / "agent.json"
            while not address.exists():  # noqa: ASYNC110 - another process makes the file
                await asyncio.sleep(0.01)
            ready = time.perf_counter() - started
            await asyncio.sleep(REST_S)
            memory = psutil.Process(process.pid).memory_full_info()
            await children.stop(process)
    finally:
        cluster.close(held)
    print(
        f"agent ready                            {ready:.2f} s  (within {READY_LIMIT_S:g} wanted)"
    )
    print(
        f"agent at rest                          {memory.rss / 2**20:.0f} MB resident, "
        f"{memory.pss / 2**20:.0f} MB proportional  (under {MEMORY_LIMIT_MB} wanted)"
    )


if __name__ == "__main__":
    asyncio.run(main())
