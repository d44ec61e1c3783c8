"""Owns the answer to a prompt: which command it is, and what is told of it."""

from __future__ import annotations

import contextlib
from typing import Any

from nats.aio.client import Client

from agent.bus import endpoints
from agent.conductor import desk
from agent.prompting import convention, gates, orders, sentences, streams
from agent.run import view
from protocol import commands, following, subjects


class Guide:
    """Answers prompts with what the endpoints answer, and with what the journal tells."""

    def __init__(
        self, nc: Client, names: subjects.Subjects, at: desk.Desk, submit: endpoints.Handler
    ) -> None:
        self._nc = nc
        self._names = names
        self._desk = at
        self._submit = submit

    async def answer(
        self, asked: convention.Envelope, caller: endpoints.Caller, stream: streams.Stream
    ) -> None:
        """Do what a prompt asks and tell of it. Raises codec.ProtocolError, endpoints.Refusal."""
        order = orders.read(asked)
        match order:
            case commands.PipelineRequest():
                accepted: Any = await self._submit(order, caller)
                await self._follow(accepted.run_id, stream)
            case commands.Cancel() | commands.Resume():
                await self._change(order, caller, stream)
            case orders.Follow(run_id=run_id):
                await self._status(run_id)
                await self._follow(run_id, stream)
            case commands.RunQuery(run_id=run_id):
                await self._show(run_id, stream)
            case commands.RunListQuery():
                found = await self._desk.runs(order, caller)
                await stream.show(sentences.of_runs(found), "runs.json", found)
            case commands.CatalogQuery():
                known = await self._desk.catalog(order, caller)
                await stream.show(sentences.of_catalog(known), "stages.json", known)
            case orders.Help():
                await stream.say(orders.HELP)

    async def _change(
        self,
        order: commands.Cancel | commands.Resume,
        caller: endpoints.Caller,
        stream: streams.Stream,
    ) -> None:
        """Stop a run or let it go on, and tell what comes of it."""
        before = await self._status(order.run_id)
        if isinstance(order, commands.Cancel):
            await self._desk.cancel(order, caller)
        else:
            await self._desk.resume(order, caller)
        await self._follow(order.run_id, stream, after=before.commits)

    async def _follow(self, run_id: str, stream: streams.Stream, *, after: int = 0) -> None:
        """Tell what a run does until it is over, and then its result."""
        asking = gates.Gates(run_id, self._desk, stream)
        entries = following.follow(self._nc, self._names, run_id)
        try:
            async with contextlib.aclosing(entries):
                async for entry in entries:
                    if entry.commit <= after:
                        continue
                    if (told := sentences.of_event(entry.event)) is not None:
                        await stream.say(told)
                    await asking.take(entry.event)
        finally:
            await asking.close()
        await self._show(run_id, stream)

    async def _show(self, run_id: str, stream: streams.Stream) -> None:
        found = view.fitting(await self._status(run_id), stream.room)
        await stream.show(sentences.of_status(found), "status.json", found)

    async def _status(self, run_id: str) -> commands.RunStatus:
        query = commands.RunQuery(run_id=run_id)
        return await self._desk.status(query, endpoints.Caller())
