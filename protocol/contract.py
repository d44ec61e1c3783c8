"""Owns the table of the contract: on which subject who says what, and what is answered."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from protocol import (
    audit,
    commands,
    events,
    problems,
    serving,
    subjects,
    swarm,
    trail,
    training,
)

VERSION = "1.0.0"
"""The contract's own version: the second number grows with additions, the first never should."""

Body = type[msgspec.Struct]
Action = Literal["receive", "send"]

EVENTS: tuple[Body, ...] = events.AnyEvent.__args__
TRAINING_REPLIES: tuple[Body, ...] = training.TrainingReply.__args__

_AGENT = "agent"
_ASKER = "Orchestrator, operator"
_SPECIALIST = "ML-Training-Specialist"
_SWARM = "Swarm-Orchestrator"
_SERVING = "serving host"


class Header(msgspec.Struct, frozen=True):
    """A NATS header of a message."""

    name: str
    about: str
    required: bool = False
    value: str | None = None
    """The only value it can have."""


class Stream(msgspec.Struct, frozen=True):
    """The JetStream stream that keeps a channel's messages."""

    name: str
    retention: Literal["limits", "workqueue"]


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One subject: who says what on it, and what is answered. `{token}` stands for a token."""

    name: str
    address: str
    about: str
    sender: str
    receiver: str
    bodies: tuple[Body, ...] = ()
    """Empty where a message of any kind can lie."""
    replies: tuple[Body, ...] = ()
    actions: tuple[Action, ...] = ("receive",)
    """What the agent does here."""
    stream: Stream | None = None
    queue: str | None = None
    """The queue group that the agent answers in."""
    headers: tuple[Header, ...] = ()
    refusable: bool = True
    """Whether a reply can also be a Problem with the error headers."""
    served: bool = True
    """False where the form is fixed but nobody is there yet."""


CONTENT_TYPE = Header(
    subjects.CONTENT_TYPE, "`application/json` (the default) or `application/msgpack`"
)
TRACE = Header("traceparent", "W3C trace context; carried to the events of the run")
SENDER = Header(
    subjects.SENDER, "a signature of the message, where one is demanded: docs/signing.md"
)
MESSAGE_ID = Header(
    "Nats-Msg-Id",
    "tells the request from all others, best the id of its run: the stream drops a repetition",
    required=True,
)
ERRORS = (
    Header("Nats-Service-Error-Code", "a number as in HTTP: 400, 404, 409, …", required=True),
    Header("Nats-Service-Error", "the problem's message, on one line", required=True),
    Header(subjects.RETRY_AFTER, "seconds to wait before it is asked again; where `overloaded`"),
)
CLOUDEVENT = (
    Header("ce-specversion", "CloudEvents version", required=True, value="1.0"),
    Header("ce-id", "`<run>-<commit>-<index>`: the same event has the same id", required=True),
    Header("ce-source", "`/ml-pipeline-manager/<agent>`", required=True),
    Header("ce-type", "`codeguardian.ml.` and the body's `type`", required=True),
    Header("ce-subject", "`<run>/<scope>`", required=True),
    Header("ce-time", "when it happened; the body's `at`", required=True),
)

PARAMETERS = {
    "run_id": "a run, as RunAccepted names it",
    "scope": "`run`, or the id of a stage",
    "type": "the last token of the event's type, as `succeeded`",
    "stage": "the id of a stage",
    "capability": "the kind of stage; its dots stay dots: `features.scale` is two tokens",
    "assignment_id": "the id of an assignment",
    "agent": "the id of an agent",
    "severity": "how urgent it is",
    "action": "what was asked for",
    "model": "the name that a model is deployed under",
}
SEVERITIES = ("info", "warning", "critical")


def channels(names: subjects.Subjects | None = None) -> list[Channel]:
    """List every channel of the contract under a prefix."""
    under = names or subjects.Subjects()
    return [
        *_pipelines(under),
        *_models(under),
        *_endpoints(under),
        *_told(under),
        *_trainings(under),
        *_swarm(under),
        *_warnings(under),
    ]


def _pipelines(names: subjects.Subjects) -> list[Channel]:
    request, status = commands.PipelineRequest, commands.RunStatus
    queue = Channel(
        name="pipeline.queue",
        address=names.pipeline_queue,
        about="Request a run without waiting; it is kept until an agent accepts it.",
        sender="Orchestrator",
        receiver=_AGENT,
        bodies=(request,),
        stream=Stream(names.intake_stream, "workqueue"),
        headers=(MESSAGE_ID, TRACE, SENDER),
    )
    return [
        _asked("pipeline.request", names.pipeline_request, request, commands.RunAccepted),
        queue,
        _asked("pipeline.validate", names.pipeline("validate"), request, commands.ValidationReport),
        _asked("pipeline.status", names.pipeline("status"), commands.RunQuery, status),
        _asked("pipeline.list", names.pipeline("list"), commands.RunListQuery, commands.RunList),
        _asked("pipeline.cancel", names.pipeline("cancel"), commands.Cancel, status),
        _asked("pipeline.resume", names.pipeline("resume"), commands.Resume, status),
        _asked("pipeline.approve", names.pipeline("approve"), commands.Approve, status),
        _asked("stage.catalog", names.stage_catalog, commands.CatalogQuery, commands.StageCatalog),
    ]


def _models(names: subjects.Subjects) -> list[Channel]:
    table: list[tuple[str, Body, Body]] = [
        ("list", commands.ModelQuery, commands.ModelList),
        ("promote", commands.ModelPromote, commands.ModelStatus),
        ("rollback", commands.ModelRollback, commands.ModelStatus),
    ]
    return [
        _asked(f"model.{action}", names.model(action), takes, gives, served=False)
        for action, takes, gives in table
    ]


def _endpoints(names: subjects.Subjects) -> list[Channel]:
    one, several = serving.Endpoint, serving.EndpointList
    predict = Channel(
        name="endpoint.predict",
        address=_template(names, names.predict(_slot("model"))),
        about="Ask a deployed model; the answer's header Model-Version tells which version spoke.",
        sender="anyone",
        receiver=_SERVING,
        bodies=(serving.Predict,),
        replies=(serving.Predicted,),
        queue=subjects.SERVING,
    )
    outcome = Channel(
        name="endpoint.outcome",
        address=_template(names, names.outcome(_slot("model"))),
        about="Tell what came of a prediction, under the id in the answer's header Prediction-Id.",
        sender="anyone",
        receiver=_SERVING,
        bodies=(serving.Outcome,),
        replies=(serving.OutcomeTaken,),
        queue=subjects.SERVING,
    )
    return [
        _asked("endpoint.list", names.endpoint("list"), serving.EndpointQuery, several),
        _asked("endpoint.rollback", names.endpoint("rollback"), serving.RollBack, one),
        _asked("endpoint.undeploy", names.endpoint("undeploy"), serving.Undeploy, one),
        predict,
        outcome,
        _served("serving.deploy", names.serving("deploy"), serving.DeployModel, serving.Deployment),
        _served("serving.halt", names.serving("halt"), serving.HaltDeploy, serving.DeployHalted),
        _served("serving.rollback", names.serving("rollback"), serving.RollBack, one),
        _served("serving.undeploy", names.serving("undeploy"), serving.Undeploy, one),
        _served("serving.list", names.serving("list"), serving.EndpointQuery, several),
    ]


def _served(name: str, address: str, takes: Body, gives: Body) -> Channel:
    return Channel(
        name=name,
        address=address,
        about=(takes.__doc__ or "").splitlines()[0],
        sender=_AGENT,
        receiver=_SERVING,
        bodies=(takes,),
        replies=(gives,),
        actions=("send",),
        queue=subjects.SERVING,
    )


def _asked(name: str, address: str, takes: Body, gives: Body, *, served: bool = True) -> Channel:
    return Channel(
        name=name,
        address=address,
        about=(takes.__doc__ or "").splitlines()[0],
        sender=_ASKER,
        receiver=_AGENT,
        bodies=(takes,),
        replies=(gives,),
        queue=subjects.SERVICE,
        headers=(TRACE, SENDER),
        served=served,
    )


def _told(names: subjects.Subjects) -> list[Channel]:
    run, stage = _slot("run_id"), _slot("stage")
    journal = Channel(
        name="journal",
        address=_template(names, names.run_journal(run)),
        about="The record of a run: what happened, stored in order, before it is announced.",
        sender=_AGENT,
        receiver="anyone",
        bodies=(events.Commit,),
        actions=("send",),
        stream=Stream(names.journal_stream, "limits"),
        headers=(
            Header("Nats-Msg-Id", "names this very commit", required=True),
            Header(
                "Nats-Expected-Last-Subject-Sequence",
                "the commit before it; a stale owner is refused",
                required=True,
            ),
        ),
    )
    event = Channel(
        name="event",
        address=_template(names, names.event(run, _slot("scope"), _slot("type"))),
        about="Each event of a stored commit, announced as a CloudEvent in binary mode.",
        sender=_AGENT,
        receiver="anyone",
        bodies=EVENTS,
        actions=("send",),
        headers=(*CLOUDEVENT, TRACE),
    )
    progress = Channel(
        name="progress",
        address=_template(names, names.progress(run, stage)),
        about="How far a long stage is; not stored.",
        sender=_AGENT,
        receiver="anyone",
        bodies=(events.Progress,),
        actions=("send",),
    )
    return [journal, event, progress]


def _trainings(names: subjects.Subjects) -> list[Channel]:
    request = Channel(
        name="training.request",
        address=names.training_request,
        about="Delegate a training; replies stream to the inbox until the result or a failure.",
        sender=_AGENT,
        receiver=_SPECIALIST,
        bodies=(training.TrainingRequest,),
        replies=TRAINING_REPLIES,
        actions=("send",),
        refusable=False,
    )
    cancel = Channel(
        name="training.cancel",
        address=names.training_cancel,
        about="Stop a training; every specialist hears it, since any may have the training.",
        sender=_AGENT,
        receiver=_SPECIALIST,
        bodies=(training.TrainingCancel,),
        replies=(training.TrainingStatus,),
        actions=("send",),
        refusable=False,
    )
    return [request, cancel]


def _swarm(names: subjects.Subjects) -> list[Channel]:
    return [*_assignments(names), *_agents(names)]


def _assignments(names: subjects.Subjects) -> list[Channel]:
    return [
        Channel(
            name="swarm.work",
            address=_template(names, names.work(_slot("capability"))),
            about="One stage for any agent with the capability.",
            sender=f"{_SWARM}, {_AGENT}",
            receiver=_AGENT,
            bodies=(swarm.StageAssignment,),
            actions=("receive", "send"),
            stream=Stream(names.work_stream, "workqueue"),
            headers=(
                Header("Nats-Msg-Id", "the assignment_id: a repetition is dropped", required=True),
                TRACE,
            ),
        ),
        Channel(
            name="swarm.report",
            address=_template(names, names.report(_slot("assignment_id"))),
            about="The one answer to an assignment.",
            sender=_AGENT,
            receiver=f"{_SWARM}, {_AGENT}",
            bodies=(swarm.StageReport,),
            actions=("send", "receive"),
            stream=Stream(names.reports_stream, "limits"),
            headers=(
                Header(
                    "Nats-Expected-Last-Subject-Sequence",
                    "`0`: only the first report of an assignment is kept",
                    required=True,
                    value="0",
                ),
            ),
        ),
        Channel(
            name="swarm.progress",
            address=_template(names, names.assignment_progress(_slot("assignment_id"))),
            about="A sign of life of whoever has taken an assignment; not stored.",
            sender=_AGENT,
            receiver=f"{_SWARM}, {_AGENT}",
            bodies=(swarm.AssignmentProgress,),
            actions=("send", "receive"),
        ),
        Channel(
            name="swarm.cancel",
            address=_template(names, names.assignment_cancel(_slot("assignment_id"))),
            about="Stop an assignment; answered when nothing of it runs any more.",
            sender=f"{_SWARM}, {_AGENT}",
            receiver=_AGENT,
            bodies=(swarm.AssignmentCancel,),
            replies=(swarm.AssignmentStatus,),
            actions=("receive", "send"),
        ),
    ]


def _agents(names: subjects.Subjects) -> list[Channel]:
    agent = _slot("agent")
    return [
        Channel(
            name="swarm.presence",
            address=_template(names, names.presence(agent)),
            about="An agent says that it is there and what it can take on.",
            sender=_AGENT,
            receiver=_SWARM,
            bodies=(swarm.AgentCard,),
            actions=("send",),
        ),
        Channel(
            name="swarm.audit",
            address=names.audit_request,
            about="Ask a Security-Auditor whether a run may go on.",
            sender=_AGENT,
            receiver="Security-Auditor",
            bodies=(audit.SecurityAudit,),
            replies=(audit.SecurityVerdict,),
            actions=("send",),
        ),
        Channel(
            name="swarm.control",
            address=_template(names, names.control(agent)),
            about="Drain or resize an agent.",
            sender=f"{_SWARM}, operator",
            receiver=_AGENT,
            bodies=(swarm.AgentControl,),
            replies=(swarm.AgentCard,),
        ),
    ]


def _warnings(names: subjects.Subjects) -> list[Channel]:
    alert = Channel(
        name="alert",
        address=_template(names, names.alert(_slot("severity"))),
        about="Something that a person should look at.",
        sender=_AGENT,
        receiver="operator",
        bodies=(swarm.Alert,),
        actions=("send",),
        stream=Stream(names.alerts_stream, "limits"),
    )
    dead = Channel(
        name="deadletter",
        address=names.deadletter,
        about="A message that could not be used, as it came, with the reason in headers.",
        sender=_AGENT,
        receiver="operator",
        actions=("send",),
        stream=Stream(names.deadletter_stream, "limits"),
        headers=(
            Header("Dead-Subject", "the subject it came on", required=True),
            Header("Dead-Code", "the problem's code", required=True),
            Header("Dead-Reason", "the problem's message", required=True),
            Header("Dead-Path", "where in the message; empty if it is the whole", required=True),
            Header("Dead-Bytes", "the size of a body that was too large to be kept whole"),
            Header("Dead-Headers", "how many headers could not be kept"),
            Header("Nats-Msg-Id", "the same message is kept once", required=True),
        ),
    )
    audit = Channel(
        name="audit",
        address=_template(names, names.audit(_slot("action"))),
        about="Who asked for what, and how it was answered.",
        sender=_AGENT,
        receiver="operator",
        bodies=(trail.AuditRecord,),
        actions=("send",),
        stream=Stream(names.audit_stream, "limits"),
        headers=(Header("Nats-Msg-Id", "the same record is kept once", required=True),),
    )
    return [alert, dead, audit]


def reply_bodies(channel: Channel) -> tuple[Body, ...]:
    """List what can come back on a channel, the refusal included."""
    refusal: tuple[Body, ...] = (problems.Problem,) if channel.refusable else ()
    return (*channel.replies, *refusal) if channel.replies else ()


def _slot(name: str) -> str:
    # A subject-safe stand-in: the builders refuse braces, as they should.
    return f"-{name}-"


def _template(names: subjects.Subjects, address: str) -> str:
    # Only behind the prefix, which may itself look like a stand-in.
    return names.prefix + re.sub(r"-([a-z_]+)-", r"{\1}", address.removeprefix(names.prefix))
