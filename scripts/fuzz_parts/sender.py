"""Owns the sending: many messages at a time, and what comes back for each."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable

import msgspec

from agent import tasks
from scripts.fuzz_parts import findings, judge, messages, raw

IN_FLIGHT = 96
ANSWER_S = 15.0
"""How long an answer may take, with that many asked at a time."""
STREAM_S = 60.0
_SWEEP_S = 0.5
_OWN = 1_000_000_000
"""Numbers from here on are the fuzzer's own questions."""


class Open(msgspec.Struct):
    """A message that waits for its answer."""

    sent: messages.Message
    at: float
    outcome: str = ""


class Sender:
    """Sends, hears and counts."""

    def __init__(self, bus: raw.Connection, found: findings.Findings) -> None:
        self._bus = bus
        self._found = found
        self._inbox = "_INBOX.fuzz"
        self._gate = asyncio.Semaphore(IN_FLIGHT)
        self._open: dict[int, Open] = {}
        self._asked: dict[int, asyncio.Future[raw.Heard]] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self.outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        self.times: dict[str, list[float]] = collections.defaultdict(list)
        self.on_ack: Callable[[messages.Message, raw.Heard], None] = lambda *_: None

    async def start(self) -> None:
        """Listen for answers."""
        self._bus.listen(f"{self._inbox}.*", self._heard)
        await self._bus.flush()
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep")

    async def stop(self) -> None:
        """Wait for no answers any more."""
        if self._sweeping is not None:
            await tasks.end(self._sweeping)

    async def send(self, one: messages.Message) -> None:
        """Send a message; wait while too many are unanswered."""
        reply = one.reply
        if one.answer != "none":
            reply = f"{self._inbox}.{one.number}".encode()
        if one.answer in {"reply", "ack", "stream"}:
            await self._gate.acquire()
            self._open[one.number] = Open(one, time.perf_counter())
        elif one.answer == "any":
            self._open[one.number] = Open(one, time.perf_counter())
        else:
            self.outcomes[one.target]["sent"] += 1
        self._bus.send(one.subject, reply, one.headers, one.body)

    async def flush(self) -> None:
        """Wait until the bus has what was sent."""
        await self._bus.flush()

    async def wait_answered(self) -> None:
        """Wait until everything has its answer, or has waited too long for it."""
        while any(one.sent.answer != "any" for one in self._open.values()):  # noqa: ASYNC110 - or given up
            await asyncio.sleep(0.02)

    async def ask(self, subject: str, body: bytes = b"") -> raw.Heard:
        """Ask something for the fuzzer's own use; raise TimeoutError where nobody answers."""
        number = _OWN + len(self._asked)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._bus.send(subject.encode(), f"{self._inbox}.{number}".encode(), b"", body)
        async with asyncio.timeout(ANSWER_S):
            return await self._asked[number]

    def _heard(self, heard: raw.Heard) -> None:
        number = int(heard.subject.rpartition(".")[2])
        if number >= _OWN:
            if not self._asked[number].done():
                self._asked[number].set_result(heard)
            return
        waiting = self._open.get(number)
        if waiting is None:
            detail = f"message {number}: {heard.body[:200]!r}"
            self._found.add("answered more than once", detail=detail)
        elif waiting.sent.answer == "stream":
            self._chunk(waiting, heard)
        else:
            self._judged(waiting, heard)

    def _judged(self, waiting: Open, heard: raw.Heard) -> None:
        sent = waiting.sent
        verdict = judge.judge(sent, heard)
        if sent.answer == "any":
            self.outcomes[sent.target][verdict.outcome] += 1
            return
        if sent.answer == "ack":
            self.on_ack(sent, heard)
        self._note(sent, verdict, heard)
        self._close(waiting, verdict)

    def _note(self, sent: messages.Message, verdict: judge.Verdict, heard: raw.Heard) -> None:
        if verdict.wrong:
            detail = f"{heard.headers!r}\n{heard.body[:1000]!r}"
            self._found.add(f"{sent.target}: {verdict.wrong}", [sent], detail)

    def _chunk(self, waiting: Open, heard: raw.Heard) -> None:
        if not heard.body and not heard.headers:
            self._close(waiting, judge.Verdict(waiting.outcome or "ended at once"))
            return
        verdict = judge.judge(waiting.sent, heard)
        waiting.outcome = verdict.outcome if waiting.outcome in {"", "ok"} else waiting.outcome
        self._note(waiting.sent, verdict, heard)

    def _close(self, waiting: Open, verdict: judge.Verdict) -> None:
        sent = waiting.sent
        del self._open[sent.number]
        self._gate.release()
        self.outcomes[sent.target][verdict.outcome] += 1
        self.times[sent.target].append(time.perf_counter() - waiting.at)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.perf_counter()
            for waiting in [*self._open.values()]:
                limit = STREAM_S if waiting.sent.answer == "stream" else ANSWER_S
                if now - waiting.at > limit:
                    self._give_up(waiting)

    def _give_up(self, waiting: Open) -> None:
        if waiting.sent.answer == "any":
            del self._open[waiting.sent.number]
            return
        wrong = f"no answer within {ANSWER_S:.0f} s"
        if waiting.sent.answer == "stream":
            wrong = f"no end within {STREAM_S:.0f} s"
        self._found.add(f"{waiting.sent.target}: {wrong}", [waiting.sent])
        self._close(waiting, judge.Verdict("silence"))
