"""Owns a broker of which a test can take the room, and give it back."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import AsyncIterator

import nats
import nats.js.errors

from agent import children
from agent.bus import server
from tests.service import helpers

BALLAST = "BALLAST"
ROOM_MB = 72
"""Of which the agent's streams reserve 65."""
_CONFIG = """\
listen: "127.0.0.1:-1"
ports_file_dir: {folder}
jetstream {{ store_dir: {folder}, max_file_store: {room}MB }}
"""


class Broker:
    """A nats-server with a limit to what it stores, filled by a stream beside the agent's."""

    def __init__(self, url: str, js: nats.js.JetStreamContext) -> None:
        self.url = url
        self._js = js

    async def fill(self) -> None:
        """Leave no room: whatever is appended to any stream is refused."""
        for size in (1_000_000, 10_000, 1):
            with contextlib.suppress(nats.js.errors.ServiceUnavailableError):
                while True:
                    await self._js.publish(BALLAST, bytes(size))

    async def empty(self) -> None:
        """Make room again."""
        await self._js.purge_stream(BALLAST)


@contextlib.asynccontextmanager
async def running(folder: pathlib.Path) -> AsyncIterator[Broker]:
    """Run a broker of little room while the context lasts."""
    conf = _configure(folder)
    process = await children.start([server.find(), "-c", str(conf)], folder / "log")
    try:
        ports = folder / f"nats-server_{process.pid}.ports"
        url = json.loads(await helpers.wait_until(lambda: _told(ports)))["nats"][0]
        nc = await nats.connect(url)
        js = nc.jetstream()
        await js.add_stream(name=BALLAST, subjects=[BALLAST])
        yield Broker(url, js)
        await nc.close()
    finally:
        await children.stop(process)


def _configure(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    conf = folder / "nats.conf"
    conf.write_text(_CONFIG.format(folder=json.dumps(str(folder)), room=ROOM_MB))
    return conf


def _told(ports: pathlib.Path) -> str:
    return ports.read_text() if ports.exists() else ""
