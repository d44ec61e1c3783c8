"""Owns a campaign: so many messages of a seed to an agent, and the judgement of it all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable

import msgspec

from protocol import codec, commands, subjects, swarm
from scripts.fuzz_parts import (
    accounts,
    findings,
    messages,
    raw,
    sender,
    stack,
    watching,
)

WINDOW = 250
"""Messages after which the log is looked at."""
WARM = 3_000
"""Messages after which memory is measured first: what is loaded once is loaded by then."""
GROWTH_BYTES, GROWTH_EACH = 48 * 2**20, 1024
"""How much an agent may grow: at all, and for each message (runs are kept in its list)."""
SETTLE_S = 120.0
RUN_S = 60.0
LOG_LINES = 100
"""How much of the log is shown with what was lost."""
_OVER = {"succeeded", "failed", "cancelled"}


class Outcome(msgspec.Struct):
    """What a campaign showed."""

    sent: int
    seconds: float
    grown_bytes: int
    held_bytes: int
    outcomes: dict[str, dict[str, int]]
    times: dict[str, list[float]]
    found: findings.Findings

    @property
    def good(self) -> bool:
        """Tell whether nothing was found."""
        return not self.found.counts


class Campaign:
    """One agent under fire."""

    def __init__(self, running: stack.Stack, bus: raw.Connection, seed: int) -> None:
        self.found = findings.Findings()
        self._stack = running
        self._bus = bus
        self._names = subjects.Subjects()
        self._maker = messages.Maker(seed, stack.AGENT_ID, self._names)
        self._sender = sender.Sender(bus, self.found)
        self._accounts = accounts.Accounts(self._names)
        self._log = watching.Log(running.agent.log)
        self._first = 0

    async def start(self) -> None:
        """Listen."""
        self._sender.on_ack = self._accounts.acknowledged
        self._accounts.listen(self._bus)
        await self._sender.start()

    async def run(self, count: int, minutes: float) -> Outcome:
        """Send so many messages, or for so long, and judge what comes of them."""
        began = time.perf_counter()
        sent = 0
        agent, until = self._stack.agent, began + minutes * 60
        while sent < count and time.perf_counter() < until and agent.running:
            window = [self._maker.message(n) for n in range(sent, min(sent + WINDOW, count))]
            await self._fire(window)
            sent += len(window)
            if not self._first and sent >= min(WARM, count // 2):
                self._first = watching.memory(self._stack.agent.pid)
        await self._sender.wait_answered()
        seconds = time.perf_counter() - began
        ends = await self.settle()
        return self._outcome(sent, seconds, ends)

    async def replay(self, case: findings.Case) -> None:
        """Send the messages of a case one after the other, looking at the log after each."""
        for one in case.messages:
            await self._fire([one])
            await self._sender.wait_answered()

    async def _fire(self, window: list[messages.Message]) -> None:
        for one in window:
            await self._sender.send(one)
        await self._sender.flush()
        if not self._stack.agent.running:
            self.found.add("the agent's process has ended", window)
            return
        try:
            await self._calm()
        except TimeoutError:
            self.found.add("the agent is deaf", window)
        self._look(window)

    async def _calm(self) -> None:
        """Undo what a control message may have asked for."""
        for action in ("undrain", "set_capacity"):
            await self._sender.ask(
                self._names.control(stack.AGENT_ID), codec.encode(swarm.AgentControl(action))
            )

    def _look(self, window: Iterable[messages.Message]) -> None:
        for kind, text in self._log.complaints():
            self.found.add(kind, list(window), text)

    async def settle(self) -> dict[str, dict[str, int]]:
        """Let everything come to its end; count what has become of what was left in streams."""
        try:
            await self._still_works()
            await self._stop_runs()
            await self._wait_empty()
        except TimeoutError:
            self.found.add("the agent does not answer after it all")
        self._look([])
        ends = self._accounts.judge(self.found)
        if any("lost" in row for row in ends.values()):
            self.found.add("what may explain a loss", detail=await self._state_of_things())
        return ends

    async def _wait_empty(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while self._accounts.missing():  # noqa: ASYNC110 - other processes bring it about
                    await asyncio.sleep(0.2)

    async def _state_of_things(self) -> str:
        """Tell what may explain that something was not dealt with."""
        card = f"{self._names.presence_stream}.{self._names.presence_key(stack.AGENT_ID)}"
        streams = (self._names.work_stream, self._names.intake_stream)
        kinds = ("STREAM.INFO", "CONSUMER.LIST")
        told = []
        for asked in (f"DIRECT.GET.{card}", *(f"{k}.{s}" for s in streams for k in kinds)):
            with contextlib.suppress(TimeoutError):
                body = b'{"subjects_filter":">"}' if asked.startswith(kinds[0]) else b""
                heard = await self._sender.ask(f"$JS.API.{asked}", body)
                told.append(heard.body.decode("utf-8", "replace"))
        log = self._stack.agent.log.read_text(errors="replace").splitlines()
        return "\n".join([*told, *log[-LOG_LINES:]])

    async def _stop_runs(self) -> None:
        ours = [run for run in self._maker.run_ids if run in self._accounts.begun]
        for run_id in ours:
            cancel = commands.Cancel(run_id=run_id, by="fuzz", grace_s=0.0)
            await self._sender.ask(self._names.pipeline("cancel"), codec.encode(cancel))
        for run_id in set(ours) - self._maker.tampered:
            state = await self._wait_over(run_id)
            if state not in _OVER:
                self.found.add(f"a cancelled run does not end: {state}", detail=run_id)

    async def _wait_over(self, run_id: str) -> str:
        state = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RUN_S):
                while (state := await self._state(run_id)) not in _OVER:  # noqa: ASYNC110 - it is asked
                    await asyncio.sleep(0.05)
        return state

    async def _state(self, run_id: str) -> str:
        query = codec.encode(commands.RunQuery(run_id=run_id))
        heard = await self._sender.ask(self._names.pipeline("status"), query)
        if heard.header("Nats-Service-Error-Code"):
            return heard.body.decode("utf-8", "replace")[:200]
        return str(codec.decode(heard.body, commands.RunStatus).state)

    async def _still_works(self) -> None:
        stages = [{"id": "s0", "use": "fuzz.items"}]
        asked = {
            "request_id": f"after-{time.time_ns()}",
            "requester": "fuzz",
            "pipeline": {"name": "after", "stages": stages},
        }
        heard = await self._sender.ask(self._names.pipeline_request, msgspec.json.encode(asked))
        try:
            accepted = codec.decode(heard.body, commands.RunAccepted)
        except codec.ProtocolError:
            self.found.add("a good request is not accepted afterwards", detail=repr(heard))
            return
        state = await self._wait_over(accepted.run_id)
        if state != "succeeded":
            self.found.add(f"a good pipeline does not run afterwards: {state}")
        elif not await self._is_listed(accepted.run_id):
            self.found.add("the list of runs has stopped")

    async def _is_listed(self, run_id: str) -> bool:
        query = codec.encode(commands.RunListQuery(pipeline="after"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RUN_S):
                while True:
                    heard = await self._sender.ask(self._names.pipeline("list"), query)
                    told = codec.decode(heard.body, commands.RunList)
                    if any(line.run_id == run_id for line in told.runs):
                        return True
                    await asyncio.sleep(0.1)
        return False

    def _outcome(self, sent: int, seconds: float, ends: dict[str, dict[str, int]]) -> Outcome:
        held = watching.memory(self._stack.agent.pid) if self._stack.agent.running else 0
        grown = held - self._first
        if self._first and grown > GROWTH_BYTES + GROWTH_EACH * sent:
            self.found.add("memory grows", detail=f"{grown / 2**20:.0f} MiB for {sent} messages")
        outcomes = {name: dict(counts) for name, counts in self._sender.outcomes.items()}
        return Outcome(
            sent, seconds, grown, held, outcomes | ends, dict(self._sender.times), self.found
        )

    async def stop(self) -> None:
        """Hear no more."""
        await self._sender.stop()


@contextlib.asynccontextmanager
async def under_fire(seed: int) -> AsyncIterator[Campaign]:
    """Start an agent to be fuzzed, and stop it."""
    async with stack.running() as running, raw.Connection(running.url) as bus:
        campaign = Campaign(running, bus, seed)
        await campaign.start()
        try:
            yield campaign
        finally:
            await campaign.stop()
