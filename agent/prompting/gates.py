"""Owns the questions to a caller about the gates of a run that it follows."""

from __future__ import annotations

import asyncio

import structlog

from agent import tasks
from agent.bus import endpoints
from agent.conductor import desk
from agent.prompting import orders, sentences, streams
from protocol import codec, commands, events

log = structlog.get_logger()

MOST_QUESTIONS = 5
"""How often a caller is asked that does not answer what it is asked."""
MOST_BYTES = 65_536
"""Of an answer."""


class Gates:
    """Asks about each open gate, until somebody has answered it, here or elsewhere."""

    def __init__(self, run_id: str, at: desk.Desk, stream: streams.Stream) -> None:
        self._run_id = run_id
        self._desk = at
        self._stream = stream
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def take(self, event: events.AnyEvent) -> None:
        """Ask about a gate that opens; whatever comes next of its stage ends the question."""
        if event.scope in self._asking:
            await tasks.end(self._asking.pop(event.scope))
        if isinstance(event, events.ApprovalRequested):
            self._asking[event.stage] = asyncio.create_task(self._ask(event), name="gate")

    async def close(self) -> None:
        """Ask no more."""
        await tasks.end(*self._asking.values())

    async def _ask(self, event: events.ApprovalRequested) -> None:
        try:
            if await self._is_open(event.stage):
                await self._answered(event)
        except endpoints.Refusal as refusal:
            await self._stream.say(sentences.all_of(refusal.problem))
        except Exception:  # the run and its stream go on; what broke is for the log
            log.exception("gate.broke", run=self._run_id, stage=event.stage)

    async def _is_open(self, stage: str) -> bool:
        """Tell whether a gate still waits: a journal is read from its beginning."""
        query = commands.RunQuery(run_id=self._run_id)
        found = await self._desk.status(query, endpoints.Caller())
        return any(one.id == stage and one.state == "waiting" for one in found.stages)

    async def _answered(self, event: events.ApprovalRequested) -> None:
        why = f": {event.prompt}" if event.prompt else ""
        question = (
            f"Stage {event.stage} of run {self._run_id} waits for approval{why}\n"
            "Answer `approve` or `deny`, with a comment after it if you like."
        )
        for _ in range(MOST_QUESTIONS):
            try:
                answer = orders.answer(await self._stream.ask(question), MOST_BYTES)
            except codec.ProtocolError as error:
                await self._stream.say(sentences.all_of(error.problem))
                continue
            await self._decide(event.stage, answer)
            return
        await self._stream.say(f"stage {event.stage} goes on waiting for an answer")

    async def _decide(self, stage: str, answer: orders.Answer) -> None:
        decision = commands.Approve(
            run_id=self._run_id,
            stage=stage,
            by=orders.BY,
            approved=answer.approved,
            comment=answer.comment,
        )
        await self._desk.approve(decision, endpoints.Caller())
