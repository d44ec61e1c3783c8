"""Owns the table of roles: what each may say and hear on the bus, and nothing else.

Channels go by their names in the contract. Whoever asks from outside has an account of its own:
inside one account anybody can have an answer sent to any subject, a journal's included, since NATS
checks where a message goes and not where its answer is wanted.
"""

from __future__ import annotations

import difflib
import re

import msgspec

from protocol import contract, subjects

ORCHESTRATOR, SWARM, OPERATOR = "orchestrator", "swarm", "operator"
AGENT, SPECIALIST, AUDITOR, WORKER = "agent", "specialist", "auditor", "worker"
CALLER, SERVING = "caller", "serving"
ROLES = (ORCHESTRATOR, SWARM, OPERATOR, AGENT, SPECIALIST, AUDITOR, WORKER, CALLER, SERVING)
INSIDE = "MLPM"
"""The account of the agents and of what works for them; its streams are here."""

_ENOUGH_S = 86_400.0
"""How long an order may be answered on the bus; after that a worker is asked through Ray, and a
training is asked for again."""
_DISCOVERY = ("PING", "INFO", "STATS")
_PROMPTS = "agents"
"""The service of the Synadia Agent Protocol."""


class NoSuchRole(ValueError):
    """There is no such role."""

    def __init__(self, name: str) -> None:
        near = difflib.get_close_matches(name, ROLES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the roles are: {', '.join(ROLES)}"
        super().__init__(f"there is no role {name!r}; {hint}")
        self.name = name


class Answers(msgspec.Struct, frozen=True):
    """How whoever is asked may answer: only to where the question says, so often, so long."""

    most: int
    """-1 is any number."""
    within_s: float


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment needs beyond the least; each goes to the roles that it is for."""

    reads: tuple[str, ...] = ()
    """Streams that the stage `ingest.stream`, in a worker, reads."""
    secrets: bool = False
    """Workers read the bus's bucket of secrets."""
    objects: bool = False
    """Artifacts are in the bus's object store."""
    replays: bool = False
    """Operators send dead letters again, and so say what only others may."""


NO_EXTRAS = Extras()


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of user may do."""

    name: str
    about: str
    account: str
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    answers: Answers | None = None


def inbox(user: str) -> str:
    """Give what the replies to a user come below: no other role may listen there."""
    return f"_INBOX.{subjects.token(user)}"


def role(
    name: str, names: subjects.Subjects, *, user: str = "", extras: Extras = NO_EXTRAS
) -> Role:
    """Give what a role may do; `user` has an inbox of its own. Raises NoSuchRole."""
    if name not in ROLES:
        raise NoSuchRole(name)
    made = _MAKERS[name](_Book(names))
    more = _more(name, names, extras)
    if name in (*_OUTSIDE, AGENT, SERVING) or more:
        heard = (f"{inbox(user or name)}.>", *made.subscribe)
        made = msgspec.structs.replace(made, subscribe=heard)
    return msgspec.structs.replace(made, publish=(*made.publish, *more))


def table(names: subjects.Subjects, extras: Extras = NO_EXTRAS) -> list[Role]:
    """Give every role."""
    return [role(name, names, extras=extras) for name in ROLES]


def many_answers(subject: str) -> bool:
    """Tell whether more than one answer can come to what is said on a subject."""
    batch = re.fullmatch(r"\$JS\.API\.DIRECT\.GET\.[^.]+", subject)
    return subject.startswith(("$SRV.", f"{_PROMPTS}.prompt.")) or batch is not None


class _Book:
    """Looks subjects up."""

    def __init__(self, names: subjects.Subjects) -> None:
        self.names = names
        self._channels = {one.name: one for one in contract.channels(names)}

    def channels(self, *wanted: str) -> tuple[str, ...]:
        """Give what matches the channels, in the form that is listened to."""
        several = r"\{capability\}|\{run_id\}\.\{scope\}\.\{type\}"
        addresses = [self._channels[name].address for name in wanted]
        return tuple(re.sub(r"\{[a-z_]+\}", "*", re.sub(several, ">", one)) for one in addresses)

    def discovery(self) -> tuple[str, ...]:
        """Give where services are looked for."""
        return tuple(each for verb in _DISCOVERY for each in (f"$SRV.{verb}", f"$SRV.{verb}.>"))

    def journals(self) -> tuple[str, ...]:
        """Give where the journals are read."""
        return (f"$JS.API.DIRECT.GET.{self.names.journal_stream}", *self.stored("journal"))

    def stored(self, *channels: str) -> tuple[str, ...]:
        """Give where single messages of streams are read, and what a stream holds."""
        streams = [stream.name for one in channels if (stream := self._channels[one].stream)]
        return tuple(
            f"$JS.API.STREAM.{verb}.{name}" for name in streams for verb in ("INFO", "MSG.GET")
        )

    def own_streams(self) -> tuple[str, ...]:
        """Give what whoever keeps the streams does with them; nothing deletes or empties one.

        A consumer of the queue of assignments is begun anew where it passes something over.
        """
        api, names = "$JS.API", self.names
        streams = [one.stream for one in self._channels.values() if one.stream]
        queues = [each.name for each in streams if each.retention == "workqueue"]
        queues.append(names.tickets_stream)
        others = [each.name for each in streams if each.retention != "workqueue"]
        others += [names.nonces_stream, names.presence_stream, names.endpoints_stream]
        verbs = ("CREATE", "UPDATE", "INFO", "MSG.GET")
        return (
            *(f"{api}.STREAM.{verb}.{name}" for name in (*queues, *others) for verb in verbs),
            *(f"{api}.STREAM.MSG.DELETE.{name}" for name in queues),
            *(f"{api}.CONSUMER.DURABLE.CREATE.{name}.*" for name in queues),
            *(f"{api}.CONSUMER.MSG.NEXT.{name}.*" for name in queues),
            *(f"{api}.CONSUMER.{verb}.{names.work_stream}.*" for verb in ("INFO", "DELETE")),
            *(f"$JS.ACK.{name}.>" for name in queues),
            f"{api}.DIRECT.GET.{names.journal_stream}",
            f"{api}.DIRECT.GET.{names.journal_stream}.{names.all_journals}",
            f"{api}.DIRECT.GET.{names.presence_stream}.{names.all_presence_keys}",
            *self.endpoints(),
        )

    def endpoints(self) -> tuple[str, ...]:
        """Give where it is read what is to be served."""
        bucket, keys = self.names.endpoints_stream, self.names.all_endpoint_keys
        return (f"$JS.API.STREAM.INFO.{bucket}", f"$JS.API.DIRECT.GET.{bucket}.{keys}")

    def cards(self) -> tuple[str, ...]:
        """Give where the cards of the agents that are there are read."""
        bucket = self.names.presence_stream
        keys = self.names.all_presence_keys
        return (f"$JS.API.STREAM.INFO.{bucket}", f"$JS.API.DIRECT.GET.{bucket}.{keys}")


def _orchestrator(book: _Book) -> Role:
    return Role(
        name=ORCHESTRATOR,
        about="Asks for runs, steers and follows them.",
        account="MLPM_ORCHESTRATOR",
        publish=(
            *book.channels("pipeline.request", "pipeline.queue", *_STEERING, *_MODELS),
            *book.channels("endpoint.list", *_PREDICTING),
            *book.journals(),
            *book.discovery(),
        ),
        subscribe=book.channels(*_TOLD),
    )


def _operator(book: _Book) -> Role:
    return Role(
        name=OPERATOR,
        about="Sees everything, steers runs, drains and resizes agents; asks for no run.",
        account="MLPM_OPERATOR",
        publish=(
            *book.channels(*_STEERING, *_MODELS, *_ENDPOINTS, *_PREDICTING, "swarm.control"),
            *book.journals(),
            *book.stored(*_KEPT, "swarm.report"),
            f"$JS.API.STREAM.MSG.DELETE.{book.names.deadletter_stream}",
            *book.cards(),
            *book.discovery(),
        ),
        subscribe=book.channels(*_TOLD, *_KEPT, *_SWARM_TOLD),
    )


def _swarm(book: _Book) -> Role:
    return Role(
        name=SWARM,
        about="Assigns stages to agents, and drains or resizes them.",
        account="MLPM_SWARM",
        publish=(
            *book.channels("swarm.work", "swarm.cancel", "swarm.control"),
            *book.stored("swarm.report"),
            *book.cards(),
            *book.discovery(),
        ),
        subscribe=book.channels(*_SWARM_TOLD),
    )


def _agent(book: _Book) -> Role:
    names = book.names
    return Role(
        name=AGENT,
        about="Answers requests, keeps the streams and the journals, gives work out.",
        account=INSIDE,
        publish=(
            *book.channels(*_TOLD, *_KEPT),
            *book.channels("training.request", "training.cancel", "swarm.work", "swarm.cancel"),
            *book.channels("swarm.report", "swarm.progress", "swarm.presence", "swarm.audit"),
            *book.channels(*_SERVING),
            names.tickets(),
            *(f"{names.prefix}.ml.{own}.*" for own in ("nudge", "worker")),
            names.all_nonces,
            names.all_presence_keys,
            f"{_PROMPTS}.hb.mlpm.*.*",
            *book.own_streams(),
            f"{inbox(AGENT)}.>",
            "_R_.>",  # what another account asked is answered here
        ),
        subscribe=(
            *book.channels("pipeline.request", *_STEERING, *_MODELS, *_ENDPOINTS),
            *book.channels("event", "swarm.work", "swarm.cancel", "swarm.control"),
            *book.channels("swarm.report", "swarm.progress"),
            f"{names.prefix}.ml.nudge.*",
            *(f"{_PROMPTS}.{verb}.mlpm.*.*" for verb in ("prompt", "status")),
            f"{inbox(_PROMPTS)}.>",
            *_findable(subjects.SERVICE, _PROMPTS),
        ),
    )


def _specialist(book: _Book) -> Role:
    return Role(
        name=SPECIALIST,
        about="Takes trainings, and answers to the inboxes of the agents that ask.",
        account=INSIDE,
        subscribe=book.channels("training.request", "training.cancel"),
        answers=Answers(-1, _ENOUGH_S),
    )


def _auditor(book: _Book) -> Role:
    return Role(
        name=AUDITOR,
        about="Is asked for its verdict, and gives it once.",
        account=INSIDE,
        subscribe=book.channels("swarm.audit"),
        answers=Answers(1, _ENOUGH_S),
    )


def _worker(book: _Book) -> Role:
    return Role(
        name=WORKER,
        about="Hears the orders for workers, and answers each once.",
        account=INSIDE,
        subscribe=(f"{book.names.prefix}.ml.worker.*",),
        answers=Answers(1, _ENOUGH_S),
    )


def _serving(book: _Book) -> Role:
    names = book.names
    return Role(
        name=SERVING,
        about="Serves models, and keeps what is to be served.",
        account=INSIDE,
        publish=(
            names.all_endpoint_keys,
            *book.endpoints(),
            f"$JS.API.DIRECT.GET.{names.journal_stream}.{names.all_journals}",
        ),
        subscribe=book.channels(*_PREDICTING, *_SERVING),
        answers=Answers(1, _ENOUGH_S),
    )


def _caller(_: _Book) -> Role:
    return Role(
        name=CALLER,
        about="Finds and prompts the agents by the Synadia Agent Protocol.",
        account="MLPM_CALLER",
        publish=(
            *(f"$SRV.{verb}.{_PROMPTS}{end}" for verb in _DISCOVERY for end in ("", ".*")),
            *(f"{_PROMPTS}.{verb}.mlpm.*.*" for verb in ("prompt", "status")),
            f"{inbox(_PROMPTS)}.*",  # the answer to a question, as at a gate
        ),
        subscribe=(f"{inbox(_PROMPTS)}.>", f"{_PROMPTS}.hb.*.*.*"),
    )


def _findable(*services: str) -> tuple[str, ...]:
    ends = ["", *(f".{service}{each}" for service in services for each in ("", ".*"))]
    return tuple(f"$SRV.{verb}{end}" for verb in _DISCOVERY for end in ends)


def _more(name: str, names: subjects.Subjects, extras: Extras) -> tuple[str, ...]:
    """Give what a role may say beyond the least."""
    found: tuple[str, ...] = ()
    if name == WORKER:
        found += _reading(extras.reads)
        found += (f"$JS.API.STREAM.MSG.GET.KV_{names.secrets_bucket}",) if extras.secrets else ()
    if extras.replays and name == OPERATOR:
        found += (names.pipeline_queue, names.all_work)
    return found + (_storing(name, names) if extras.objects else ())


def _storing(name: str, names: subjects.Subjects) -> tuple[str, ...]:
    """Give what whoever reads, writes and clears the bucket of artifacts needs."""
    verbs = ("DIRECT.GET", "STREAM.INFO", "STREAM.MSG.GET", "STREAM.PURGE")
    cleared, made = (
        tuple(f"$JS.API.{verb}.{names.artifacts_stream}" for verb in each)
        for each in (verbs, ("STREAM.CREATE", "STREAM.UPDATE"))
    )
    written = (*cleared, names.all_artifacts)
    by_role = {OPERATOR: cleared, WORKER: written, SPECIALIST: written, AGENT: (*written, *made)}
    by_role[SERVING] = cleared[:-1]  # reads alone
    return by_role.get(name, ())


def _reading(streams: tuple[str, ...]) -> tuple[str, ...]:
    """Give what the stage `ingest.stream` needs to read a stream."""
    api = "$JS.API"
    verbs = ("STREAM.INFO.{}", "STREAM.MSG.GET.{}", "CONSUMER.CREATE.{}.>", "CONSUMER.DELETE.{}.*")
    each = [
        f"{api}.{verb.format(subjects.token(name))}"
        for name in streams
        for verb in (*verbs, "CONSUMER.MSG.NEXT.{}.*")
    ]
    return (f"{api}.STREAM.NAMES", *each) if streams else ()


_STEERING = (
    "pipeline.validate",
    "pipeline.status",
    "pipeline.list",
    "pipeline.cancel",
    "pipeline.resume",
    "pipeline.approve",
    "stage.catalog",
)
_MODELS = ("model.list", "model.promote", "model.rollback")
_ENDPOINTS = ("endpoint.list", "endpoint.rollback", "endpoint.undeploy")
_PREDICTING = ("endpoint.predict", "endpoint.outcome")
_SERVING = tuple(
    f"serving.{action}" for action in ("deploy", "halt", "rollback", "undeploy", "list")
)
_TOLD = ("journal", "event", "progress")
_KEPT = ("alert", "deadletter", "audit")
_SWARM_TOLD = ("swarm.report", "swarm.progress", "swarm.presence")
_OUTSIDE = (ORCHESTRATOR, SWARM, OPERATOR)
_MAKERS = {
    ORCHESTRATOR: _orchestrator,
    SWARM: _swarm,
    OPERATOR: _operator,
    AGENT: _agent,
    SPECIALIST: _specialist,
    AUDITOR: _auditor,
    WORKER: _worker,
    CALLER: _caller,
    SERVING: _serving,
}
