"""Owns the accounts of what was left in streams: each message accepted, reported or dead."""

from __future__ import annotations

import json

from protocol import codec, commands, subjects, swarm
from scripts.fuzz_parts import findings, messages, raw

_DEAD = "Nats-Msg-Id"
_KINDS = {"fuzz.noop", "fuzz.items", "fuzz.fail", "ingest.table"}


class Accounts:
    """Knows what was put into the two work queues, and what has become of it."""

    def __init__(self, names: subjects.Subjects) -> None:
        self._names = names
        self._stored: dict[tuple[str, int], messages.Message] = {}
        self._dead: dict[str, str] = {}
        self._reported: set[str] = set()
        self.begun: set[str] = set()
        """Runs that have a journal."""

    def listen(self, bus: raw.Connection) -> None:
        """Hear what becomes of messages."""
        bus.listen(self._names.deadletter, self._buried)
        bus.listen(self._names.all_journals, self._journaled)
        bus.listen(self._names.all_reports, self._answered)

    def _buried(self, heard: raw.Heard) -> None:
        name = heard.header(_DEAD)
        if name is not None:
            self._dead[name] = heard.header("Dead-Code") or ""

    def _journaled(self, heard: raw.Heard) -> None:
        self.begun.add(heard.subject.rpartition(".")[2])

    def _answered(self, heard: raw.Heard) -> None:
        self._reported.add(heard.subject.rpartition(".")[2])

    def acknowledged(self, sent: messages.Message, heard: raw.Heard) -> None:
        """Take note of what a stream has taken."""
        told = json.loads(heard.body)
        queued = sent.target == "pipeline.queue" or (
            sent.target == "swarm.work" and sent.subject.decode().partition("work.")[2] in _KINDS
        )
        if queued and "error" not in told and not told.get("duplicate"):
            self._stored[(told["stream"], told["seq"])] = sent

    def missing(self) -> list[messages.Message]:
        """Give what has been neither accepted nor reported nor buried."""
        return [sent for place, sent in self._stored.items() if not self._settled(place, sent)]

    def judge(self, found: findings.Findings) -> dict[str, dict[str, int]]:
        """Count what has become of everything, by target and outcome."""
        counts: dict[str, dict[str, int]] = {}
        for (stream, sequence), sent in self._stored.items():
            outcome = self._settled((stream, sequence), sent) or "lost"
            row = counts.setdefault(f"{sent.target}, at the end", {})
            row[outcome] = row.get(outcome, 0) + 1
            if outcome in {"lost", "dead: internal"}:
                found.add(f"{sent.target}: {outcome}", [sent])
        return counts

    def _settled(self, place: tuple[str, int], sent: messages.Message) -> str:
        code = self._dead.get(f"dead-{place[0]}-{place[1]}")
        if code is not None:
            return f"dead: {code}"
        if sent.target == "swarm.work":
            return "reported" if self._name(sent) in self._reported else ""
        return "accepted" if self._run(sent) in self.begun else ""

    def _run(self, sent: messages.Message) -> str | None:
        request = _decoded(sent, commands.PipelineRequest)
        if not isinstance(request, commands.PipelineRequest):
            return None
        return subjects.run_id_for(request.requester, request.request_id)

    def _name(self, sent: messages.Message) -> str | None:
        asked = _decoded(sent, swarm.StageAssignment)
        return asked.assignment_id if isinstance(asked, swarm.StageAssignment) else None


def _decoded(sent: messages.Message, kind: type) -> object:
    """Read a message in any way that it could have been read in."""
    for content_type in (messages.JSON, messages.MSGPACK):
        try:
            return codec.decode(sent.body, kind, content_type)
        except codec.ProtocolError:
            continue
    return None
