"""Owns every subject, stream, consumer and bucket name; nothing else spells one."""

from __future__ import annotations

import hashlib
import re

import msgspec

DEFAULT_PREFIX = "codeguardian"
SERVICE = "ml-pipeline-manager"
"""The services framework's name and queue group of the agent's endpoints."""
CONTENT_TYPE = "Content-Type"
RETRY_AFTER = "Retry-After"
SENDER = "Agent-Sender"
"""Names the header with a request's signature."""
SERVING = "ml-serving"
"""The queue group of the hosts that serve models."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}")


class UnsafeToken(ValueError):
    """A name cannot be one token of a subject."""

    def __init__(self, token: str) -> None:
        super().__init__(f"{token[:80]!r} is not subject-safe: use 1 to 64 of A-Z a-z 0-9 _ -")
        self.token = token


class EventPlace(msgspec.Struct, frozen=True):
    """What the subject of an announced event says."""

    run_id: str
    scope: str
    type: str


class Subjects(msgspec.Struct, frozen=True):
    """Every name under one prefix."""

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        """Refuse a prefix that would not be plain tokens."""
        if not _PREFIX.fullmatch(self.prefix):
            raise UnsafeToken(self.prefix)

    @property
    def pipeline_request(self) -> str:
        """Where a pipeline is requested and a RunAccepted is answered."""
        return f"{self.prefix}.ml.pipeline.request"

    @property
    def pipeline_queue(self) -> str:
        """Where a pipeline is requested without waiting for an answer."""
        return f"{self.prefix}.ml.pipeline.queue"

    def pipeline(self, action: str) -> str:
        """Name an endpoint: `validate`, `status`, `list`, `cancel`, `resume` or `approve`."""
        return f"{self.prefix}.ml.pipeline.{token(action)}"

    @property
    def stage_catalog(self) -> str:
        """Where stages and templates are listed."""
        return f"{self.prefix}.ml.stage.catalog"

    def model(self, action: str) -> str:
        """Name a model endpoint: `list`, `promote` or `rollback`."""
        return f"{self.prefix}.ml.model.{token(action)}"

    def endpoint(self, action: str) -> str:
        """Name an endpoint about deployed models: `list`, `rollback` or `undeploy`."""
        return f"{self.prefix}.ml.endpoint.{token(action)}"

    def serving(self, action: str) -> str:
        """Where whoever serves models is told: `deploy`, `halt`, `rollback`, `undeploy`, `list`."""
        return f"{self.prefix}.ml.serving.{token(action)}"

    def predict(self, model: str) -> str:
        """Where a deployed model is asked for predictions."""
        return f"{self.prefix}.ml.predict.{token(model)}"

    def outcome(self, model: str) -> str:
        """Where it is told what came of a deployed model's predictions."""
        return f"{self.prefix}.ml.outcome.{token(model)}"

    @property
    def all_outcomes(self) -> str:
        """Match the outcomes of all models."""
        return f"{self.prefix}.ml.outcome.*"

    @property
    def all_predictions(self) -> str:
        """Match the requests for predictions of all models."""
        return f"{self.prefix}.ml.predict.*"

    def run_journal(self, run_id: str) -> str:
        """Where the commits of a run are appended."""
        return f"{self.prefix}.ml.journal.{token(run_id)}"

    @property
    def all_journals(self) -> str:
        """Match the journals of all runs."""
        return f"{self.prefix}.ml.journal.*"

    def event(self, run_id: str, scope: str, kind: str) -> str:
        """Where one event is announced; `kind` is one token such as `succeeded`."""
        return f"{self.prefix}.ml.event.{token(run_id)}.{token(scope)}.{token(kind)}"

    def run_events(self, run_id: str) -> str:
        """Match every announced event of a run."""
        return f"{self.prefix}.ml.event.{token(run_id)}.>"

    @property
    def all_events(self) -> str:
        """Match every announced event."""
        return f"{self.prefix}.ml.event.>"

    def events_of(self, *, scope: str = "*", kind: str = "*") -> str:
        """Match the announced events of all runs about one scope, or of one type."""
        return f"{self.prefix}.ml.event.*.{scope}.{kind}"

    def progress(self, run_id: str, stage: str) -> str:
        """Where a long stage tells how far it is."""
        return f"{self.prefix}.ml.progress.{token(run_id)}.{token(stage)}"

    def run_progress(self, run_id: str) -> str:
        """Match the progress of every stage of a run."""
        return f"{self.prefix}.ml.progress.{token(run_id)}.*"

    def ticket(self, priority: int, run_id: str) -> str:
        """Where an accepted run waits for an agent; internal."""
        if not 0 <= priority <= 9:  # noqa: PLR2004 - the contract's range
            raise UnsafeToken(str(priority))
        return f"{self.prefix}.ml.ticket.{priority}.{token(run_id)}"

    def tickets(self, priority: int | None = None) -> str:
        """Match the tickets of one priority, or all; internal."""
        return f"{self.prefix}.ml.ticket.{'*' if priority is None else priority}.*"

    def worker(self, name: str) -> str:
        """Where a worker of an agent gets its attempts; internal."""
        return f"{self.prefix}.ml.worker.{token(name)}"

    def nudge(self, run_id: str) -> str:
        """Where the owner of a run is told of a command for it; internal."""
        return f"{self.prefix}.ml.nudge.{token(run_id)}"

    @property
    def training_request(self) -> str:
        """Where a specialist takes trainings."""
        return f"{self.prefix}.ml.training.request"

    @property
    def training_cancel(self) -> str:
        """Where a training is stopped."""
        return f"{self.prefix}.ml.training.cancel"

    def work(self, capability: str) -> str:
        """Where assignments for a capability wait; a dotted stage name stays dotted."""
        return ".".join([f"{self.prefix}.swarm.work", *map(token, capability.split("."))])

    @property
    def all_work(self) -> str:
        """Match the assignments for every capability."""
        return f"{self.prefix}.swarm.work.>"

    def report(self, assignment_id: str) -> str:
        """Where an assignment is answered."""
        return f"{self.prefix}.swarm.report.{token(assignment_id)}"

    @property
    def all_reports(self) -> str:
        """Match the reports of every assignment."""
        return f"{self.prefix}.swarm.report.*"

    def assignment_progress(self, assignment_id: str) -> str:
        """Where whoever has taken an assignment gives signs of life."""
        return f"{self.prefix}.swarm.progress.{token(assignment_id)}"

    def assignment_cancel(self, assignment_id: str) -> str:
        """Where whoever has taken an assignment is asked to stop."""
        return f"{self.prefix}.swarm.cancel.{token(assignment_id)}"

    def presence(self, agent: str) -> str:
        """Where an agent says that it is there."""
        return f"{self.prefix}.swarm.presence.{token(agent)}"

    def control(self, agent: str) -> str:
        """Where an agent is drained or resized."""
        return f"{self.prefix}.swarm.control.{token(agent)}"

    @property
    def audit_request(self) -> str:
        """Where a Security-Auditor is asked for its verdict."""
        return f"{self.prefix}.swarm.audit.request"

    def alert(self, severity: str) -> str:
        """Where alerts of a severity go."""
        return f"{self.prefix}.ml.alert.{token(severity)}"

    @property
    def all_alerts(self) -> str:
        """Match every alert."""
        return f"{self.prefix}.ml.alert.*"

    def audit(self, action: str) -> str:
        """Where it is written down that somebody asked for an action."""
        return f"{self.prefix}.ml.audit.{token(action)}"

    def audits_of(self, action: str = "*") -> str:
        """Match the records of the audit log, of one action or of all."""
        return f"{self.prefix}.ml.audit.{action if action == '*' else token(action)}"

    def nonce(self, key: str, nonce: str) -> str:
        """Where an agent takes the nonce of a signature, so that no other does; internal."""
        return f"{self.prefix}.ml.nonce.{token(key)}.{token(nonce)}"

    @property
    def all_nonces(self) -> str:
        """Match the nonces that have been taken."""
        return f"{self.prefix}.ml.nonce.*.*"

    @property
    def deadletter(self) -> str:
        """Where a rejected message goes."""
        return f"{self.prefix}.ml.deadletter"

    @property
    def journal_stream(self) -> str:
        """Name the stream of all journals."""
        return self._upper("ML_JOURNAL")

    @property
    def tickets_stream(self) -> str:
        """Name the work queue of accepted runs."""
        return self._upper("ML_TICKETS")

    @property
    def intake_stream(self) -> str:
        """Name the work queue of fire-and-forget requests."""
        return self._upper("ML_INTAKE")

    @property
    def alerts_stream(self) -> str:
        """Name the stream of alerts."""
        return self._upper("ML_ALERTS")

    @property
    def audit_stream(self) -> str:
        """Name the stream of the audit log."""
        return self._upper("ML_AUDIT")

    @property
    def nonces_stream(self) -> str:
        """Name the stream of nonces that have been taken."""
        return self._upper("ML_NONCES")

    @property
    def deadletter_stream(self) -> str:
        """Name the stream of rejected messages."""
        return self._upper("ML_DEADLETTER")

    @property
    def work_stream(self) -> str:
        """Name the work queue of assignments."""
        return self._upper("SWARM_WORK")

    @property
    def reports_stream(self) -> str:
        """Name the stream of assignment reports."""
        return self._upper("SWARM_REPORTS")

    @property
    def presence_stream(self) -> str:
        """Name the stream behind the bucket of agents that are there."""
        return f"KV_{self.presence_bucket}"

    @property
    def all_presence_keys(self) -> str:
        """Match the cards of all agents in the bucket."""
        return f"$KV.{self.presence_bucket}.>"

    def presence_key(self, agent: str) -> str:
        """Where an agent's card lies in the bucket."""
        return f"$KV.{self.presence_bucket}.{token(agent)}"

    @property
    def presence_bucket(self) -> str:
        """Name the key-value bucket of agents that are there."""
        return f"{self.prefix.replace('.', '_')}_swarm_presence"

    @property
    def endpoints_bucket(self) -> str:
        """Name the key-value bucket of what is to be served."""
        return f"{self.prefix.replace('.', '_')}_endpoints"

    @property
    def endpoints_stream(self) -> str:
        """Name the stream behind that bucket."""
        return f"KV_{self.endpoints_bucket}"

    @property
    def all_endpoint_keys(self) -> str:
        """Match what is to be served of all models in the bucket."""
        return f"$KV.{self.endpoints_bucket}.>"

    def endpoint_key(self, model: str) -> str:
        """Where it lies in the bucket what is to be served of a model."""
        return f"$KV.{self.endpoints_bucket}.{token(model)}"

    @property
    def secrets_bucket(self) -> str:
        """Name the key-value bucket of secrets that requests may refer to."""
        return f"{self.prefix.replace('.', '_')}_secrets"

    @property
    def artifacts_bucket(self) -> str:
        """Name the object store's bucket of artifacts."""
        return f"{self.prefix.replace('.', '_')}_artifacts"

    @property
    def artifacts_stream(self) -> str:
        """Name the stream behind that bucket."""
        return f"OBJ_{self.artifacts_bucket}"

    @property
    def all_artifacts(self) -> str:
        """Match all that is in that bucket: what describes an artifact, and its chunks."""
        return f"$O.{self.artifacts_bucket}.>"

    def tickets_consumer(self, priority: int) -> str:
        """Name the durable consumer of one priority."""
        return f"tickets-{priority}"

    def work_consumer(self, capability: str) -> str:
        """Name the durable consumer of one capability."""
        return capability.replace(".", "-")

    @property
    def intake_consumer(self) -> str:
        """Name the durable consumer of the intake."""
        return "intake"

    def read_event(self, subject: str) -> EventPlace | None:
        """Take an event's subject apart; None if it is another kind of subject."""
        parts = self._after(subject, "ml.event.")
        return EventPlace(*parts) if len(parts) == 3 else None  # noqa: PLR2004 - run, scope, type

    def read_journal(self, subject: str) -> str | None:
        """Give the run of a journal's subject; None if it is another kind of subject."""
        parts = self._after(subject, "ml.journal.")
        return parts[0] if len(parts) == 1 else None

    def read_ticket(self, subject: str) -> tuple[int, str] | None:
        """Give priority and run of a ticket's subject; None if it is another kind of subject."""
        parts = self._after(subject, "ml.ticket.")
        if len(parts) != 2 or not re.fullmatch("[0-9]", parts[0]):  # noqa: PLR2004 - two tokens
            return None
        return int(parts[0]), parts[1]

    def read_work(self, subject: str) -> str | None:
        """Give the capability of an assignment's subject; None if it is another kind."""
        return ".".join(self._after(subject, "swarm.work.")) or None

    def read_predict(self, subject: str) -> str | None:
        """Give the model of a request for predictions; None if it is another kind of subject."""
        parts = self._after(subject, "ml.predict.")
        return parts[0] if len(parts) == 1 else None

    def read_outcome(self, subject: str) -> str | None:
        """Give the model that an outcome is of; None if it is another kind of subject."""
        parts = self._after(subject, "ml.outcome.")
        return parts[0] if len(parts) == 1 else None

    def _after(self, subject: str, kind: str) -> list[str]:
        start = f"{self.prefix}.{kind}"
        parts = subject.removeprefix(start).split(".") if subject.startswith(start) else []
        return parts if all(_TOKEN.fullmatch(part) for part in parts) else []

    def _upper(self, name: str) -> str:
        return f"{re.sub(r'[.-]', '_', self.prefix).upper()}_{name}"


def token(text: str) -> str:
    """Give the text back if it can be one token of a subject; raise UnsafeToken if not."""
    if not _TOKEN.fullmatch(text):
        raise UnsafeToken(text)
    return text


def run_id_for(requester: str, request_id: str) -> str:
    """Name the run of a request: the same request is the same run, on any agent."""
    # The length keeps ("a", "b/c") and ("a/b", "c") apart.
    named = f"{len(requester)}:{requester}/{request_id}"
    digest = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", request_id).strip("-")[:32].rstrip("-")
    return f"run-{slug}-{digest}" if slug else f"run-{digest}"
