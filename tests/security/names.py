"""Owns a small DNS server of addresses that a test writes down, and a resolver that asks it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator

_A, _AAAA, _IN = 1, 28, 1
_SUCCESS, _NO_SUCH_NAME = 0x8180, 0x8183
_WAIT_S = 5.0


class Names:
    """Answers by name; a name with several answers gives the next one at every look-up."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self.port = 0

    def look_up(self, host: str) -> list[str]:
        """Ask the server, as a resolver of the system's does, for addresses of both kinds."""
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        found = [each for kind in (_A, _AAAA) for each in self._ask(host, kind)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    def _ask(self, host: str, kind: int) -> list[str]:
        head = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(_WAIT_S)
            asking.sendto(head + _question(host, kind), ("127.0.0.1", self.port))
            return list(_addresses(asking.recv(4096), len(head) + len(_question(host, kind))))

    def reply(self, data: bytes) -> bytes:
        """Answer one question."""
        host, kind, end = _asked(data)
        if kind == _A:
            self.asked.append(host)
        turns = self.answers.get(host, [])
        now = turns[min(self.asked.count(host), len(turns)) - 1] if turns else []
        packed = [ipaddress.ip_address(each).packed for each in now]
        fitting = [each for each in packed if len(each) == (4 if kind == _A else 16)]
        flags = _SUCCESS if turns else _NO_SUCH_NAME
        head = data[:2] + struct.pack("!5H", flags, 1, len(fitting), 0, 0)
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, _IN, 0, len(each)) + each for each in fitting
        )
        return head + data[12:end] + records


def _question(host: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in host.rstrip(".").split("."))
    return labels + b"\0" + struct.pack("!HH", kind, _IN)


def _asked(data: bytes) -> tuple[str, int, int]:
    parts, place = [], 12
    while length := data[place]:
        parts.append(data[place + 1 : place + 1 + length].decode())
        place += 1 + length
    (kind,) = struct.unpack("!H", data[place + 1 : place + 3])
    return ".".join(parts), kind, place + 5


def _addresses(data: bytes, place: int) -> Iterator[str]:
    (count,) = struct.unpack("!H", data[6:8])
    for _ in range(count):
        (length,) = struct.unpack("!H", data[place + 10 : place + 12])
        yield str(ipaddress.ip_address(data[place + 12 : place + 12 + length]))
        place += 12 + length


@contextlib.contextmanager
def serving() -> Iterator[Names]:
    names = Names()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        names.port = server.getsockname()[1]

        def serve() -> None:
            while len(found := server.recvfrom(4096)[0:2]) and found[0]:
                server.sendto(names.reply(found[0]), found[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield names
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
                stop.sendto(b"", ("127.0.0.1", names.port))
            thread.join()
