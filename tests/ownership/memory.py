"""Owns a broker in memory that acts as JetStream does where ownership depends on it.

Appends guarded by the last sequence of their subject, message ids that are dropped when they come
again, one message a subject, work that is delivered again unless it is acknowledged in time, and
acknowledgements that are taken however late. `test_memory.py` holds it to a real server.
"""

from __future__ import annotations

import bisect
import collections
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.ownership import clockwork

EXPECTED, MESSAGE_ID = "Nats-Expected-Last-Subject-Sequence", "Nats-Msg-Id"
WRONG_SEQUENCE, SECOND_OF_SUBJECT = 10071, 10077
Send = Callable[[str, bytes, str, dict[str, str] | None], None]


class Stored(NamedTuple):
    sequence: int
    subject: str
    data: bytes


class Stream:
    """Messages in order."""

    def __init__(self, name: str, prefix: str, *, single: bool, id_first: bool) -> None:
        self.name, self.prefix = name, prefix
        self.messages: list[Stored] = []
        self._single = single
        """A subject has one message at a time."""
        self._id_first = id_first
        """As replicated streams do; others look at the expected sequence first."""
        self._ids: dict[str, int] = {}
        self._last = 0

    def of(self, subject: str) -> list[Stored]:
        return [one for one in self.messages if one.subject == subject]

    def add(self, subject: str, data: bytes, headers: dict[str, str]) -> dict[str, Any]:
        """Store a message, or say why not."""
        duplicate = self._duplicate(headers)
        if duplicate and self._id_first:
            return duplicate
        found = self.of(subject)
        last = found[-1].sequence if found else 0
        if EXPECTED in headers and int(headers[EXPECTED]) != last:
            return _error(WRONG_SEQUENCE, f"wrong last sequence: {last}")
        if duplicate:
            return duplicate
        if self._single and found:
            return _error(SECOND_OF_SUBJECT, "maximum messages per subject exceeded")
        self._last += 1
        self.messages.append(Stored(self._last, subject, data))
        if MESSAGE_ID in headers:
            self._ids[headers[MESSAGE_ID]] = self._last
        return {"stream": self.name, "seq": self._last}

    def _duplicate(self, headers: dict[str, str]) -> dict[str, Any] | None:
        known = self._ids.get(headers.get(MESSAGE_ID, ""))
        return None if known is None else {"stream": self.name, "seq": known, "duplicate": True}

    def remove(self, sequence: int) -> None:
        self.messages = [one for one in self.messages if one.sequence != sequence]


class _Pull(NamedTuple):
    inbox: str
    expires: float


class Consumer:
    """Work of one subject prefix, each message given to whoever pulls."""

    def __init__(self, broker: Broker, stream: Stream, name: str, subject: str, wait: float):
        self._broker, self._stream, self._name = broker, stream, name
        self._subject, self._wait_s = subject, wait
        self._pulls: collections.deque[_Pull] = collections.deque()
        self._delivered: collections.Counter[int] = collections.Counter()
        self._due: dict[int, float] = {}
        """When what is out comes again, by stream sequence."""

    def pull(self, inbox: str, wish: dict[str, Any]) -> None:
        loop = self._broker.loop
        if wish.get("no_wait"):
            if not self._give(inbox):
                self._broker.deliver(inbox, b"", "", {"Status": "404"})
            return
        wait = wish["expires"] / 1e9
        pull = _Pull(inbox, loop.time() + wait)
        self._pulls.append(pull)
        loop.call_later(wait, self._expire, pull)
        self.look()

    def _expire(self, pull: _Pull) -> None:
        if pull in self._pulls:
            self._pulls.remove(pull)
            self._broker.deliver(pull.inbox, b"", "", {"Status": "408"})

    def look(self) -> None:
        """Give out what can be given."""
        while self._pulls and self._next() is not None:
            pull = self._pulls.popleft()
            if self._broker.hears(pull.inbox):
                self._give(pull.inbox)

    def _next(self) -> Stored | None:
        now = self._broker.loop.time()
        mine = (one for one in self._stream.messages if one.subject.startswith(self._subject))
        return next((one for one in mine if self._due.get(one.sequence, now) <= now), None)

    def _give(self, inbox: str) -> bool:
        one = self._next()
        if one is None:
            return False
        self._delivered[one.sequence] += 1
        count = self._delivered[one.sequence]
        ack = f"$JS.ACK.{self._stream.name}.{self._name}.{count}.{one.sequence}.{count}.1.0"
        self._again(one.sequence, self._wait_s)
        self._broker.deliver(inbox, one.data, ack, None, subject=one.subject)
        return True

    def _again(self, sequence: int, after: float) -> None:
        loop = self._broker.loop
        self._due[sequence] = loop.time() + after
        loop.call_later(after, self.look)

    def acknowledge(self, sequence: int, body: bytes) -> None:
        """Take an acknowledgement of any delivery, however late."""
        if sequence not in self._due:
            return
        if body.startswith(b"+WPI"):
            if self._due[sequence] > self._broker.loop.time():  # or else it is up for delivery
                self._again(sequence, self._wait_s)
        elif body.startswith(b"-NAK"):
            told = json.loads(body[5:] or b"{}")
            self._again(sequence, told.get("delay", 0) / 1e9)
        else:
            self._stream.remove(sequence)
            del self._due[sequence]


class Broker:
    """Takes messages one at a time; `deliver` gives them to whoever listens."""

    def __init__(self, loop: clockwork.Loop) -> None:
        self.loop = loop
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[str, Consumer] = {}
        self.listeners: dict[str, Send] = {}

    def hears(self, subject: str) -> bool:
        return subject in self.listeners

    def deliver(self, to: str, data: bytes, reply: str, headers: Any, subject: str = "") -> bool:
        heard = to in self.listeners
        if heard:
            self.listeners[to](subject or to, data, reply, headers)
        return heard

    def take(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Do what a message asks for."""
        kind, _, rest = subject.removeprefix("$JS.API.").partition(".")
        if subject.startswith("$JS.API.CONSUMER.MSG.NEXT."):
            self.consumers[rest.split(".")[-1]].pull(reply, json.loads(data))
        elif subject.startswith("$JS.ACK."):
            parts = subject.split(".")
            self.consumers[parts[3]].acknowledge(int(parts[5]), data)
            self.consumers[parts[3]].look()
            self.deliver(reply, b"", "", None)
        elif kind == "DIRECT":
            stream, _, wanted = rest.removeprefix("GET.").partition(".")
            self._read(self.streams[stream], wanted, data, reply)
        elif stream := self._stream_of(subject):
            self.deliver(
                reply, json.dumps(stream.add(subject, data, headers or {})).encode(), "", None
            )
            for consumer in self.consumers.values():
                consumer.look()
        elif not self.deliver(subject, data, reply, headers) and reply:
            self.deliver(reply, b"", "", {"Status": "503"})

    def _stream_of(self, subject: str) -> Stream | None:
        return next((s for s in self.streams.values() if subject.startswith(s.prefix)), None)

    def _read(self, stream: Stream, last_of: str, data: bytes, reply: str) -> None:
        if last_of:
            found = stream.of(last_of)[-1:]
        else:
            wish = json.loads(data)
            found = stream.of(wish["next_by_subj"])
            found = found[bisect.bisect_left(found, (wish["seq"],)) :][: wish["batch"]]
        for one in found:
            headers = {
                "Nats-Sequence": str(one.sequence),
                "Nats-Subject": one.subject,
                "Nats-Stream": stream.name,
                "Nats-Time-Stamp": "2026-01-01T00:00:00Z",
            }
            self.deliver(reply, one.data, "", headers)
        if not last_of or not found:
            status = "404" if last_of or not found else "204"
            self.deliver(reply, b"", "", {"Status": status, "Description": "none"})


def _error(code: int, text: str) -> dict[str, Any]:
    return {"error": {"code": 400, "err_code": code, "description": text}}
