"""Owns a connection to the bus that sends any bytes as a message, headers included.

A client library would refuse half of what is to be sent, and stumble over what comes back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Self
from urllib import parse

import msgspec

from agent import tasks

_HELLO = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
_MESSAGE = re.compile(
    rb"(?:MSG (\S+) (\d+) (?:\S+ )?()(\d+)|HMSG (\S+) (\d+) (?:\S+ )?(\d+) (\d+))\r\n"
)
_FLUSH_S = 30.0

Take = Callable[["Heard"], None]


class BusHungUp(Exception):
    """The server ended the connection: what was sent is no message at all."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server hung up: {reason}")


class Heard(msgspec.Struct, frozen=True):
    """A message as it came."""

    subject: str
    headers: bytes
    body: bytes

    @property
    def status(self) -> str:
        """Give the status that the server put in place of a message."""
        return self.headers[8:12].strip().decode("latin-1") if self.headers else ""

    def header(self, name: str) -> str | None:
        """Look a header up."""
        for line in self.headers.split(b"\r\n")[1:]:
            key, colon, value = line.partition(b":")
            if colon and key.strip() == name.encode():
                return value.strip().decode("utf-8", "replace")
        return None


class Connection:
    """One connection."""

    def __init__(self, url: str) -> None:
        self._where = parse.urlsplit(url)
        self._takers: dict[int, Take] = {}
        self._pongs: list[asyncio.Future[None]] = []
        self._reading: asyncio.Task[None] | None = None
        self._error = ""

    async def __aenter__(self) -> Self:
        """Connect."""
        host, port = self._where.hostname or "", self._where.port or 4222
        self._reader, self._writer = await asyncio.open_connection(host, port, limit=2**22)
        await self._reader.readline()
        self._writer.write(b"CONNECT " + msgspec.json.encode({**_HELLO, **self._who()}) + b"\r\n")
        self._reading = asyncio.create_task(self._read(), name="raw connection")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        assert self._reading is not None
        await tasks.end(self._reading)
        self._writer.close()

    def _who(self) -> dict[str, str]:
        name = parse.unquote(self._where.username or "")
        if self._where.password is None:
            return {"auth_token": name} if name else {}
        return {"user": name, "pass": parse.unquote(self._where.password)}

    def listen(self, subject: str, take: Take) -> None:
        """Hear what comes on a subject."""
        number = len(self._takers) + 1
        self._takers[number] = take
        self._writer.write(f"SUB {subject} {number}\r\n".encode())

    def send(self, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:
        """Send a message; `headers` is the whole block, its first line included, or nothing."""
        place = subject + (b" " + reply if reply else b"")
        if headers:
            sizes = b"%d %d" % (len(headers), len(headers) + len(body))
            frame = b"HPUB %b %b\r\n%b%b\r\n" % (place, sizes, headers, body)
        else:
            frame = b"PUB %b %d\r\n%b\r\n" % (place, len(body), body)
        self._writer.write(frame)

    async def flush(self) -> None:
        """Wait until the server has taken all that was sent; raise BusHungUp."""
        assert self._reading is not None
        if self._reading.done():
            self._reading.result()  # raises what ended it
            raise BusHungUp(self._error)
        pong = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._writer.write(b"PING\r\n")
        async with asyncio.timeout(_FLUSH_S):
            await self._writer.drain()
            await pong

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                await self._take(line)
        finally:
            for pong in self._pongs:
                if not pong.done():
                    pong.set_exception(BusHungUp(self._error))

    async def _take(self, line: bytes) -> None:
        found = _MESSAGE.fullmatch(line)
        if found:
            subject, number, head, size = (one for one in found.groups() if one is not None)
            data = (await self._reader.readexactly(int(size) + 2))[:-2]
            cut = int(head or 0)
            heard = Heard(subject.decode("latin-1"), data[:cut], data[cut:])
            self._takers[int(number)](heard)
        elif line.startswith(b"PING"):
            self._writer.write(b"PONG\r\n")
        elif line.startswith(b"PONG"):
            self._pongs.pop(0).set_result(None)
        elif line.startswith(b"-ERR"):
            self._error = line.decode("latin-1").strip()
