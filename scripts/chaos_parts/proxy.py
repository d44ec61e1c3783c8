"""Owns a wire between one client and its broker that a test can cut, with what is on it."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from typing import Self


class Proxy:
    """Forwards TCP. While it is cut nothing passes, and nobody is told: as when a cable is out."""

    def __init__(self, url: str) -> None:
        self._broker = urllib.parse.urlsplit(url)
        self._whole = asyncio.Event()
        self._whole.set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        self.delay_s = 0.0
        """How long what is sent is on its way, about; each way."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._broker._replace(netloc=self._netloc(port)).geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._drop()

    def cut(self) -> None:
        """Let nothing through; connections stay, and can be made, but are silent."""
        self._whole.clear()

    def mend(self) -> None:
        """Let everything through, first what has been waiting: it arrives late."""
        self._whole.set()

    def replace(self) -> None:
        """Mend it, but what went over the old connections is gone for good, and they are dead."""
        self._lose()
        self._whole.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        try:
            there, back = await asyncio.open_connection(self._broker.hostname, self._broker.port)
        except OSError:  # the broker is down, and so is the line
            writer.close()
            return
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            pipe = asyncio.create_task(self._forward(source, sink))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                await asyncio.sleep(self.delay_s)
                await self._whole.wait()
                sink.write(data)
                await sink.drain()
            sink.close()

    def _lose(self) -> None:
        """Stop forwarding on what is connected now, without closing it."""
        for pipe in self._pipes:
            pipe.cancel()

    def _drop(self) -> None:
        self._lose()
        for writer in self._writers:
            writer.close()

    def _netloc(self, port: int) -> str:
        """Give our address, with whatever the broker's says of the user."""
        user, at, _ = self._broker.netloc.rpartition("@")
        return f"{user}{at}127.0.0.1:{port}"
