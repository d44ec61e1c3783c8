"""Owns what the tests of prompts share: hearing a stream out, and answering its questions."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from synadia_ai import agents

from protocol import commands
from tests.service import helpers


def request(*stages, **more):
    """Write a request as a prompt."""
    return msgspec.json.encode(helpers.request(*stages, **more)).decode()


async def heard(found, prompt, answers=(), **more):
    """Prompt an agent and hear it out; the answers are given to its questions in turn."""
    left, chunks = list(answers), []
    async with asyncio.timeout(helpers.WAIT_S):
        async for chunk in found.prompt(prompt, **more):
            chunks.append(chunk)
            if isinstance(chunk, agents.Query):
                await chunk.reply(left.pop(0))
    return chunks


async def refused(found, prompt, **more):
    """Prompt an agent that refuses; give what it said, and the error."""
    said = []

    async def hear():
        async for chunk in found.prompt(prompt, **more):
            said.append(chunk)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(agents.ProtocolError) as error:
        await hear()
    return "\n".join(texts(said)), str(error.value)


async def replies(bus, subject, data, headers=None):
    """Send bytes as they are; give all messages up to the terminator."""
    return [message async for message in _messages(bus, subject, data, headers)]


async def stream(bus, subject, data, headers=None):
    """Send bytes as they are; give the chunks as they come."""
    async for message in _messages(bus, subject, data, headers):
        if message.data:
            yield json.loads(message.data)


async def _messages(bus, subject, data, headers):
    inbox = bus.new_inbox()
    answers = await bus.subscribe(inbox)
    await bus.publish(subject, data, reply=inbox, headers=headers)
    over = False
    while not over:
        message = await answers.next_msg(timeout=helpers.WAIT_S)
        over = not message.data and not message.headers
        yield message
    await answers.unsubscribe()


def texts(chunks):
    return [chunk.text for chunk in chunks if isinstance(chunk, agents.ResponseChunk)]


def questions(chunks):
    return [chunk.prompt for chunk in chunks if isinstance(chunk, agents.Query)]


def attached(chunk, name, kind):
    """Read the one document that a chunk carries."""
    (one,) = chunk.attachments
    assert one.filename == name
    return msgspec.convert(json.loads(one.to_bytes()), kind)


def result(chunks) -> commands.RunStatus:
    """Read the status with which a stream about a run ends."""
    return attached(chunks[-1], "status.json", commands.RunStatus)


async def until(found, prompt, wanted):
    """Prompt an agent and hear it until a text begins as wanted; then stop to listen."""
    stream = found.prompt(prompt)
    async with asyncio.timeout(helpers.WAIT_S):
        async for chunk in stream:
            if isinstance(chunk, agents.ResponseChunk) and chunk.text.startswith(wanted):
                await stream.aclose()
                return
    raise AssertionError(f"nothing began with {wanted!r}")
