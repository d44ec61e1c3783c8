"""Owns the facts of a run: the events that a commit carries and operators watch."""

from __future__ import annotations

from typing import Any

from protocol import artifacts, commands, pipelines, problems, serving, wire

RUN = "run"
"""The scope of an event about the run itself; otherwise the scope is a stage id."""


class Event(wire.Fact, frozen=True, tag_field="type", kw_only=True):
    """One fact. `id` is stable (`<run>-<commit>-<index>` is derived when the commit is read)."""

    at: wire.Time
    cause: str = ""
    """The event or command that brought it about, as `commands/<request>` or an event's place."""

    @property
    def scope(self) -> str:
        """Name the stage it is about, or `run`."""
        return RUN


class Bounds(wire.Fact, frozen=True):
    """What a run is held to, beside its options; null where its requester has no such limit."""

    max_fan_out: int | None = None
    """Elements of one stage."""
    max_artifact_bytes: int | None = None
    """Of one output of a stage."""


class RunAccepted(Event, frozen=True, tag="run.accepted", kw_only=True):
    """The run exists. Carries all that is needed to run it: the expanded pipeline, its options."""

    run_id: str
    request_id: str
    requester: str
    pipeline: pipelines.Pipeline
    options: pipelines.Options = pipelines.Options()
    template: str | None = None
    code_version: str = ""
    traceparent: str | None = None
    signed_by: str | None = None
    """Whose signature was verified, by the name that the agent knows the key by."""
    bounds: Bounds = Bounds()


class RunStarted(Event, frozen=True, tag="run.started", kw_only=True):
    """An agent took the run; its first commit under this epoch."""

    owner: str
    epoch: int


class RunRecovered(Event, frozen=True, tag="run.recovered", kw_only=True):
    """Another agent, or the same one restarted, took the run over and fenced the former owner."""

    owner: str
    epoch: int
    problem: problems.Problem | None = None
    """Why the run does not go on: too many agents were lost with it, and so it is ended."""


class RunSucceeded(Event, frozen=True, tag="run.succeeded", kw_only=True):
    """Every stage ended well or was skipped on purpose."""

    duration_s: float


class RunFailed(Event, frozen=True, tag="run.failed", kw_only=True):
    """The run ended without success; finished stages keep their results."""

    duration_s: float
    problem: problems.Problem


class CancelRequested(Event, frozen=True, tag="run.cancel_requested", kw_only=True):
    """Somebody asked for the run to stop."""

    by: str
    reason: str = ""
    grace_s: float = 5.0
    signed_by: str | None = None


class Stopped(wire.Fact, frozen=True, kw_only=True):
    """Proof that one piece of work is over."""

    stage: str
    attempt: int
    how: str
    """`asked`, `forced`, `finished` or `not_started`."""
    at: wire.Time
    element: int | None = None
    where: str = ""
    """The worker or specialist that ran it."""


class RunCancelled(Event, frozen=True, tag="run.cancelled", kw_only=True):
    """The receipt of a cancellation: what was stopped and when; nothing of it runs any more."""

    stopped: list[Stopped] = []
    by: str = ""
    reason: str = ""
    duration_s: float = 0.0


class RunResumed(Event, frozen=True, tag="run.resumed", kw_only=True):
    """A failed or cancelled run goes on."""

    by: str
    again: list[str]
    """The stages that run again; all others keep their results."""
    params: dict[str, dict[str, Any]] = {}
    backfill: bool = False
    code_version: str = ""
    signed_by: str | None = None


class StageEvent(Event, frozen=True, kw_only=True):
    """A fact about one stage, or one element of a fanned-out stage."""

    stage: str
    element: int | None = None

    @property
    def scope(self) -> str:
        """Name the stage."""
        return self.stage


class StageStarted(StageEvent, frozen=True, tag="stage.started", kw_only=True):
    """An attempt began. `elements` says how wide a fanned-out stage is."""

    attempt: int
    elements: int | None = None
    memory_bytes: int | None = None
    """The memory limit of this attempt, where one holds."""
    adopted: bool = False
    """It had begun under the run's former owner, and goes on under this one."""


class Usage(wire.Fact, frozen=True):
    """What an attempt used."""

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    """0 where it was not measured: the attempt was too short, or shared its process."""
    cost: float | None = None
    """Estimated, in the currency of the configured price per CPU hour."""


class StageSucceeded(StageEvent, frozen=True, tag="stage.succeeded", kw_only=True):
    """The outputs are durable."""

    attempt: int
    outputs: dict[str, artifacts.Output] = {}
    metrics: dict[str, float] = {}
    duration_s: float = 0.0
    usage: Usage | None = None
    cached: bool = False
    cache_key: str | None = None
    code_version: str = ""
    """Digest of the stage's code, so that a resumed run shows what came from which version."""
    quarantined: list[commands.ElementFailure] = []
    """The failed elements of a fanned-out stage that met its quorum."""


class StageFailed(StageEvent, frozen=True, tag="stage.failed", kw_only=True):
    """The last attempt failed."""

    attempt: int
    problem: problems.Problem
    log: str = ""
    """The tail of what the attempt printed."""


class StageRetrying(StageEvent, frozen=True, tag="stage.retrying", kw_only=True):
    """An attempt failed and another will follow at `next_at`."""

    attempt: int
    problem: problems.Problem
    next_at: wire.Time
    memory_bytes: int | None = None
    log: str = ""


class StageSkipped(StageEvent, frozen=True, tag="stage.skipped", kw_only=True):
    """The stage does not run; `reason` says why."""

    reason: str


class StageCancelled(StageEvent, frozen=True, tag="stage.cancelled", kw_only=True):
    """The attempt was stopped, or never began (`attempt` 0)."""

    attempt: int = 0
    how: str = ""
    """`asked`, `forced` or `not_started`, where an attempt was at work: proof for the receipt."""
    where: str = ""


class StageDelegated(StageEvent, frozen=True, tag="stage.delegated", kw_only=True):
    """A specialist accepted the training."""

    training_id: str
    specialist: str


class ApprovalRequested(StageEvent, frozen=True, tag="stage.approval_requested", kw_only=True):
    """The stage waits for a person."""

    prompt: str = ""
    expires_at: wire.Time | None = None


class StageApproved(StageEvent, frozen=True, tag="stage.approved", kw_only=True):
    """Somebody let the stage go on."""

    by: str
    comment: str = ""
    signed_by: str | None = None


class StageDenied(StageEvent, frozen=True, tag="stage.denied", kw_only=True):
    """Somebody, or a time limit, refused the stage."""

    by: str
    comment: str = ""
    signed_by: str | None = None


class FallbackUsed(StageEvent, frozen=True, tag="stage.fallback_used", kw_only=True):
    """The stage failed for good; the named stage or model stands in for it."""

    fallback: str
    problem: problems.Problem


class StageRegistered(StageEvent, frozen=True, tag="stage.registered", kw_only=True):
    """A model version is in the registry."""

    model: str
    version: str
    aliases: list[str] = []


class StageShifted(StageEvent, frozen=True, tag="stage.shifted", kw_only=True):
    """Requests for a model have moved from one version to another."""

    model: str
    version: str
    """The new one."""
    before: str = ""
    phase: serving.ShiftPhase
    percent: float
    """Of the requests that the new version gets from now on."""
    reason: str = ""
    measured: dict[str, float] = {}
    """In the step that ends with it: requests, errors, 95th percentiles."""


class StageDeployed(StageEvent, frozen=True, tag="stage.deployed", kw_only=True):
    """A version of a model serves."""

    model: str
    version: str
    url: str = ""
    """Where predictions are asked for by HTTP."""
    subject: str = ""
    """Where they are asked for on the bus."""


AnyEvent = (
    RunAccepted
    | RunStarted
    | RunRecovered
    | RunSucceeded
    | RunFailed
    | CancelRequested
    | RunCancelled
    | RunResumed
    | StageStarted
    | StageSucceeded
    | StageFailed
    | StageRetrying
    | StageSkipped
    | StageCancelled
    | StageDelegated
    | ApprovalRequested
    | StageApproved
    | StageDenied
    | FallbackUsed
    | StageRegistered
    | StageShifted
    | StageDeployed
)


class Commit(wire.Fact, frozen=True):
    """The journal's unit: what happened to a run between two appends, in order."""

    run_id: str
    number: int
    """1 for the first commit of the run, without gaps."""
    epoch: int
    owner: str
    at: wire.Time
    previous: str
    """SHA-256 (hex) of the bytes of the commit before; empty for the first."""
    events: list[AnyEvent]
    """None where its owner only lets go of the run."""
    version: int = 1
    released: bool = False
    """Its owner stops, and gave the run back in order: the next one finds no sign of a crash."""


class Progress(wire.Fact, frozen=True):
    """How far a long stage is; sent, not stored."""

    run_id: str
    stage: str
    at: wire.Time
    fraction: float | None = None
    message: str = ""
    element: int | None = None
    metrics: dict[str, float] = {}
