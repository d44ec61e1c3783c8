"""Measures what is light: imports, the program's help, the agent's start and memory at rest."""

from __future__ import annotations

import asyncio
import pathlib
import sys
from asyncio.subprocess import DEVNULL

import psutil

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import measure
import stack

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
    async with stack.running() as running:
        await asyncio.sleep(REST_S)
        memory = psutil.Process(running.pid).memory_full_info()
    print(
        f"agent ready                            {running.ready_s:.2f} s  "
        f"(within {READY_LIMIT_S:g} wanted)"
    )
    print(
        f"agent at rest                          {memory.rss / 2**20:.0f} MB resident, "
        f"{memory.pss / 2**20:.0f} MB proportional  (under {MEMORY_LIMIT_MB} wanted)"
    )


async def python(*arguments: str) -> None:
    """Run the interpreter to its end."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=DEVNULL)
    assert await process.wait() == 0


if __name__ == "__main__":
    asyncio.run(main())
