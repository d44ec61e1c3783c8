"""Owns a connection that outlives what it hears: any bytes can be a message on a bus.

The library's own stops reading, for good or until the server hangs up, at the first header or
subject that is not the text which it takes it for (nats-py 2.16).
"""

from __future__ import annotations

import re

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

# The library's own lets a line end between the two sizes: where a header block begins with an empty
# line and a body with digits, they count as the size, and what is announced never comes.
parser.HMSG_RE = re.compile(rb"\AHMSG +(\S+) +(\S+) +((\S+) +)?(\d+) +(\d+)\r\n")

_OF_A_STREAM = b"$JS.ACK."
"""How the reply subject of a stored message begins."""
_OF_THE_SERVER = {"Status", "Description"}


class TolerantClient(Client):  # type: ignore[misc]
    """Reads what is no text as well as it can, and a header block that is none as no headers.

    A stored message does not pass for a status of the server, whatever its own headers say.
    """

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        try:
            read: dict[str, str] | None = await super()._process_headers(headers)
        except (ValueError, LookupError):  # a UnicodeDecodeError is a ValueError
            return None
        return read

    def _build_message(
        self,
        sid: int,
        subject: bytes,
        reply: bytes,
        data: bytes,
        headers: dict[str, str] | None,
    ) -> Msg:
        if headers and reply.startswith(_OF_A_STREAM):
            headers = {k: v for k, v in headers.items() if k not in _OF_THE_SERVER}
        return self.msg_class(
            subject=subject.decode(errors="replace"),
            reply=reply.decode(errors="replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )
