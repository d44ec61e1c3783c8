"""Owns one caller's stream: what is said on it, what is asked, and whether anybody is there."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent.bus import endpoints
from agent.prompting import convention, sentences
from protocol import codec, problems

KEEP_ALIVE_S = 20.0
"""A caller gives a stream up that is silent for a minute (6.6)."""
NO_RESPONDERS = "503"
MOST_MISSED = 2
ACK = convention.status("ack")
TOO_LARGE = "(what belongs here is too large for one message of this bus)"


class Stream:
    """The replies to one prompt, chunk by chunk."""

    def __init__(self, nc: Client, reply: str, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._nc = nc
        self._reply = reply
        self._keep_alive_s = keep_alive_s

    @property
    def room(self) -> int:
        """Give how many bytes an attachment may have: Base64 makes four of three."""
        return (self._nc.max_payload - 4 * convention.MOST_TEXT) * 3 // 4

    async def acknowledge(self) -> None:
        """Say that the prompt is taken."""
        await self._nc.publish(self._reply, ACK)

    async def say(self, text: str) -> None:
        """Say something."""
        await self._nc.publish(self._reply, convention.response(convention.cut(text), []))

    async def show(self, text: str, name: str, document: msgspec.Struct) -> None:
        """Say something and attach the document that it is made of, if that fits a message."""
        content = codec.encode(document)
        if len(content) > self.room:
            await self.say(f"{text}\n{TOO_LARGE}")
            return
        attached = [convention.Attachment(name, content)]
        await self._nc.publish(self._reply, convention.response(convention.cut(text), attached))

    async def ask(self, text: str) -> bytes:
        """Ask the caller something, and wait for the answer."""
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def hear(message: Msg) -> None:
            if not answered.done():
                answered.set_result(message.data)

        name = uuid.uuid4().hex
        inbox = f"{convention.INBOX}.{name}"
        async with _listening(self._nc, inbox, hear):
            question = convention.query(name, inbox, convention.cut(text))
            await self._nc.publish(self._reply, question)
            return await answered

    async def refuse(self, problem: problems.Problem) -> None:
        """Say all that is wrong, then send the first of it as the error that ends the stream."""
        await self.say(sentences.all_of(problem))
        headers = {
            "Nats-Service-Error-Code": str(endpoints.number(problem)),
            "Nats-Service-Error": convention.header(sentences.of_problem(problem)),
        }
        body = codec.encode(problem)
        fits = len(body) <= self.room
        await self._nc.publish(self._reply, body if fits else b"", headers=headers)

    async def end(self, farewell: str = "") -> None:
        """Say why it ends, if there is something to say, and that nothing follows."""
        with contextlib.suppress(nats.errors.Error):  # the bus may be gone
            if farewell:
                await self.say(farewell)
            await self._nc.publish(self._reply, convention.END)

    async def wait_gone(self) -> None:
        """Tell the caller now and then that it is served; return once nobody hears it.

        The server says so of a message that wants a reply; it must say so twice, since after its
        restart it may not know yet who listens elsewhere. A caller that stops to listen but keeps
        its connection cannot be told from one that listens.
        """
        unheard = asyncio.Event()

        async def hear(message: Msg) -> None:
            if (message.headers or {}).get("Status") == NO_RESPONDERS:
                unheard.set()

        inbox = self._nc.new_inbox()
        async with _listening(self._nc, inbox, hear):
            missed = 0
            while missed < MOST_MISSED:
                await asyncio.sleep(self._keep_alive_s)
                missed = missed + 1 if unheard.is_set() else 0
                unheard.clear()
                await self._nc.publish(self._reply, ACK, reply=inbox)


@contextlib.asynccontextmanager
async def _listening(
    nc: Client, inbox: str, hear: Callable[[Msg], Awaitable[None]]
) -> AsyncIterator[None]:
    subscription = await nc.subscribe(inbox, cb=hear)
    try:
        yield
    finally:
        if not nc.is_closed:
            await subscription.unsubscribe()
