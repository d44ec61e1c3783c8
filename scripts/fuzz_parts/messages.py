"""Owns what is sent: the message of a seed and a number, always the same, to any subject."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from protocol import commands, contract, events, problems, subjects, swarm
from scripts.fuzz_parts import documents, headers, mutations, packing

MSGPACK, JSON = "application/msgpack", "application/json"
RUNS = 300
"""How many runs there can be: as many request ids are used, again and again."""
MOST_BYTES = 2**20
"""Of a message; the bus hangs up on whoever sends more."""
TAMPERED = 20
"""How many of them have their journals written to by others."""

Answer = Literal["reply", "ack", "stream", "any", "none"]
"""What comes back: one reply, one acknowledgement of a stream, chunks and an end, anything."""


class Message(msgspec.Struct, frozen=True):
    """One message, as it is sent."""

    number: int
    target: str
    """The channel of the contract, or another name for where it goes."""
    subject: bytes
    answer: Answer
    headers: bytes
    body: bytes
    reply: bytes = b""
    """Where an answer is asked for, if not where it is heard."""


class Place(msgspec.Struct, frozen=True):
    """One kind of subject, and what belongs there."""

    weight: int
    answer: Answer
    takes: Any = None
    """The type of the body; None where there is no right one."""


@functools.cache
def endpoints(prefix: str = subjects.DEFAULT_PREFIX) -> dict[str, contract.Channel]:
    """Give the channels that are asked and answer, by name."""
    every = contract.channels(subjects.Subjects(prefix))
    chosen = (one for one in every if one.queue == subjects.SERVICE or one.name == "swarm.control")
    return {one.name: one for one in chosen if one.served}


def gives(target: str) -> tuple[Any, ...]:
    """Give the types of a good reply."""
    return endpoints()[target].replies


_OTHERS = {
    "pipeline.queue": Place(10, "ack", commands.PipelineRequest),
    "journal": Place(4, "ack", events.Commit),
    "ticket": Place(3, "ack"),
    "swarm.work": Place(4, "ack", swarm.StageAssignment),
    "swarm.report": Place(1, "ack", swarm.StageReport),
    "swarm.cancel": Place(1, "any", swarm.AssignmentCancel),
    "presence": Place(1, "none", swarm.AgentCard),
    "event": Place(2, "none", events.RunSucceeded),
    "nudge": Place(4, "any"),
    "worker": Place(3, "none"),
    "service": Place(3, "any"),
    "service.ping": Place(1, "reply", problems.Problem),
    "prompt": Place(3, "stream"),
    "unanswered": Place(3, "none", commands.Cancel),
    "odd subject": Place(2, "none"),
    "odd reply": Place(2, "none", commands.RunQuery),
}
_WEIGHTS = {"stage.catalog": 2, "swarm.control": 3}


@functools.cache
def places() -> dict[str, Place]:
    """Give every kind of subject."""
    asked = {
        name: Place(_WEIGHTS.get(name, 9), "reply", channel.bodies[0])
        for name, channel in endpoints().items()
    }
    return {**asked, **_OTHERS}


class Maker:
    """Makes the messages of one seed."""

    def __init__(self, seed: int, agent_id: str, names: subjects.Subjects) -> None:
        self._seed = seed
        self._agent = agent_id
        self._names = names
        self._kinds = places()
        self._weights = [place.weight for place in self._kinds.values()]
        self._tampered = self.run_ids[-TAMPERED:] + self.run_ids[:2]

    @functools.cached_property
    def run_ids(self) -> list[str]:
        """Name the runs that may be there, those that are most asked for first."""
        return [subjects.run_id_for("fuzz", self._request_id(n)) for n in range(RUNS)]

    @property
    def tampered(self) -> frozenset[str]:
        """Name the runs that others write the journals of."""
        return frozenset(self._tampered)

    def _request_id(self, number: int) -> str:
        return f"fuzz-{self._seed}-{number}"

    def message(self, number: int) -> Message:
        """Make one message."""
        rng = random.Random(f"{self._seed}/{number}")  # noqa: S311 - it must be the same again
        (target,) = rng.choices(list(self._kinds), self._weights)
        kind = self._kinds[target]
        content_type = rng.choice([None, None, JSON, MSGPACK])
        body = self._body(rng, target, kind.takes, content_type == MSGPACK)
        block = self._headers(rng, content_type)
        return Message(
            number,
            target,
            self._subject(rng, target),
            kind.answer,
            block,
            body[: MOST_BYTES - len(block)],
            self._reply(rng) if target == "odd reply" else b"",
        )

    def _headers(self, rng: random.Random, content_type: str | None) -> bytes:
        if rng.random() < 0.2:  # noqa: PLR2004 - one in five
            return headers.odd(rng, content_type)
        return headers.block({"Content-Type": content_type} if content_type else {})

    def _body(self, rng: random.Random, target: str, takes: Any, packed: bool) -> bytes:
        roll = rng.random()
        if takes is None or roll < 0.08:  # noqa: PLR2004 - shares of all
            return self._without_type(rng, target)
        document = self._document(rng, takes)
        if roll > 0.35:  # noqa: PLR2004 - shares of all
            document = mutations.mutate(rng, document, rng.choice([1, 1, 1, 2, 4]))
        if rng.random() < 0.03:  # noqa: PLR2004 - the wrong one of the two
            packed = not packed
        data = packing.as_msgpack(document) if packed else packing.as_json(document)
        if rng.random() < 0.002:  # noqa: PLR2004 - rarely: as large as it can be
            data += b" " * max(0, 1_040_000 - len(data))
        return mutations.spoil(rng, data) if roll > 0.85 else data  # noqa: PLR2004 - the rest

    def _without_type(self, rng: random.Random, target: str) -> bytes:
        if target == "prompt" and rng.random() < 0.7:  # noqa: PLR2004 - most are nearly good
            words = [
                "help",
                "list",
                "status",
                "catalog",
                "cancel",
                "ä",
                "\x00",
                documents.word(rng),
            ]
            text = " ".join(rng.choices(words, k=rng.choice([1, 1, 2, 3])))
            envelope = mutations.mutate(rng, {"prompt": text}, rng.choice([0, 0, 1, 2]))
            return packing.as_json(envelope)
        if target == "nudge" and rng.random() < 0.5:  # noqa: PLR2004 - a coin
            return packing.as_json(mutations.mutate(rng, _nudge(rng), rng.randint(0, 2)))
        return mutations.noise(rng)

    def _document(self, rng: random.Random, takes: Any) -> Any:
        if takes is commands.PipelineRequest and rng.random() < 0.5:  # noqa: PLR2004 - a coin
            return documents.request(rng, self._request_id(_few(rng)))
        made = documents.of(rng, takes)
        if takes in _ABOUT_RUNS:
            self._aim(rng, made)
        return made

    def _aim(self, rng: random.Random, made: dict[str, Any]) -> None:
        """Let a command be about a run and a stage that may be there."""
        if rng.random() < 0.8:  # noqa: PLR2004 - most are
            made["run_id"] = self.run_ids[_few(rng)]
        for field in ("stage", "from_stage"):
            if field in made and made[field] is not None:
                made[field] = rng.choice(["s0", "s1", "s2", "bad", made[field]])

    def _subject(self, rng: random.Random, target: str) -> bytes:
        if target in endpoints():
            address = endpoints(self._names.prefix)[target].address
            return address.replace("{agent}", self._agent).encode()
        return _SUBJECTS[target](self, rng)

    def _journal(self, rng: random.Random) -> bytes:
        run_id = rng.choice([rng.choice(self._tampered), documents.word(rng)])
        return self._names.run_journal(run_id).encode()

    def _ticket(self, rng: random.Random) -> bytes:
        priority = rng.choice([*map(str, range(10)), "x", "10", "-1"])
        run_id = rng.choice([rng.choice(self.run_ids), f"nobody-{rng.randrange(5)}", "l" * 200])
        return f"{self._names.prefix}.ml.ticket.{priority}.{run_id}".encode()

    def _work(self, rng: random.Random) -> bytes:
        kind = rng.choice(["fuzz.noop", "fuzz.items", "fuzz.fail", "no.such", "ingest.table"])
        return self._names.work(kind).encode()

    def _run(self, rng: random.Random, kind: str) -> bytes:
        run_id = rng.choice([self.run_ids[_few(rng)], documents.word(rng)])
        return f"{self._names.prefix}.{kind}.{run_id}".encode()

    def _odd_subject(self, rng: random.Random) -> bytes:
        tail = rng.choice([b"\xff\xfe", b"\xc3", b"x" * 3_000, b"\x01\x02", "ä😀".encode()])
        kinds = [
            *("swarm.work.", "ml.ticket.5.", "ml.nudge.", "ml.worker.", "ml.deadletter."),
            *("ml.pipeline.", "swarm.presence.", "ml.alert."),
        ]
        start = f"{self._names.prefix}.{rng.choice(kinds)}".encode()
        event = f"{self._names.prefix}.ml.event.".encode() + tail + b".run.x"
        return rng.choice([start + tail, event])

    def _reply(self, rng: random.Random) -> bytes:
        journal = self._names.run_journal(self._tampered[0])
        own = [one.encode() for one in (self._names.pipeline_request, journal, "$SRV.PING")]
        return rng.choice([b"\xff\xfe", b"x" * 2_000, b"a.*", b">", *own])

    def _service(self, rng: random.Random) -> bytes:
        verb = rng.choice(["PING", "INFO", "STATS", "SCHEMA", "ping"])
        rest = rng.choice(["", ".ml-pipeline-manager", ".agents", ".nobody", ".a.b.c", ".ä"])
        return f"$SRV.{verb}{rest}".encode()


def _few(rng: random.Random) -> int:
    """Choose a run: a few of them often, so that most commands meet one that is there."""
    return int(RUNS * rng.random() ** 4)


def _nudge(rng: random.Random) -> Any:
    kind = rng.choice(["cancel", "resume", "answer"])
    told = {
        "cancel": {"by": "fuzz", "reason": "", "grace_s": 1.0},
        "resume": {"by": "fuzz", "from_stage": "s0", "params": {}},
        "answer": {"stage": "s0", "approved": True, "by": "fuzz", "comment": ""},
    }
    return {"kind": kind, "cause": "fuzz", "stimulus": told[kind]}


_ABOUT_RUNS = (commands.RunQuery, commands.Cancel, commands.Resume, commands.Approve)
_SUBJECTS: dict[str, Callable[[Maker, random.Random], bytes]] = {
    "pipeline.queue": lambda self, _: self._names.pipeline_queue.encode(),
    "journal": Maker._journal,  # noqa: SLF001 - the table of the class's own
    "ticket": Maker._ticket,  # noqa: SLF001 - the same
    "swarm.work": Maker._work,  # noqa: SLF001 - the same
    "swarm.report": lambda self, rng: self._run(rng, "swarm.report"),
    "swarm.cancel": lambda self, rng: self._run(rng, "swarm.cancel"),
    "presence": lambda self, rng: self._names.presence_key(documents.word(rng)).encode(),
    "event": lambda self, rng: self._run(rng, "ml.event") + b".run.succeeded",
    "nudge": lambda self, rng: self._run(rng, "ml.nudge"),
    "worker": lambda self, rng: self._run(rng, "ml.worker"),
    "service": Maker._service,  # noqa: SLF001 - the same
    "service.ping": lambda *_: f"$SRV.PING.{subjects.SERVICE}".encode(),
    "prompt": lambda self, _: f"agents.prompt.mlpm.{self._names.prefix}.default".encode(),
    "unanswered": lambda self, _: self._names.pipeline("cancel").encode(),
    "odd subject": Maker._odd_subject,  # noqa: SLF001 - the same
    "odd reply": lambda self, _: self._names.pipeline("status").encode(),
}
