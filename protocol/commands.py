"""Owns what is asked of the agent over request/reply, and the replies."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec

from protocol import artifacts, pipelines, problems, wire

RunState = Literal["queued", "running", "waiting", "cancelling", "succeeded", "failed", "cancelled"]
StageState = Literal[
    "pending", "waiting", "running", "retrying", "succeeded", "failed", "skipped", "cancelled"
]


class PipelineRequest(wire.Command, frozen=True):
    """Run a pipeline. Exactly one of `pipeline` and `template` is given."""

    request_id: wire.Id
    requester: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    pipeline: pipelines.Pipeline | None = None
    template: str | None = None
    params: dict[str, Any] = {}
    """Parameters of the template."""
    options: pipelines.Options = pipelines.Options()


class RunAccepted(wire.Fact, frozen=True):
    """The request is on disk: it will be run, whatever happens to the agent that said so."""

    run_id: wire.Id
    request_id: str
    duplicate: bool = False
    """The same request_id was accepted before; this is that run."""


class CacheForecast(wire.Fact, frozen=True):
    """Whether a stage would be taken from the cache if the pipeline ran now."""

    stage: str
    reuse: Literal["hit", "miss", "unknown"]
    reason: str = ""


class ValidationReport(wire.Fact, frozen=True):
    """All the problems of a request at once; none means it would be accepted."""

    ok: bool
    problems: list[problems.Problem] = []
    forecast: list[CacheForecast] = []
    pipeline: pipelines.Pipeline | None = None
    """The pipeline as it would run, expanded from its template."""


class RunQuery(wire.Command, frozen=True):
    """Ask for one run."""

    run_id: wire.Id


class ElementFailure(wire.Fact, frozen=True):
    """A quarantined element of a fanned-out stage."""

    element: int
    code: str
    message: str


class StageStatus(wire.Fact, frozen=True):
    """Where one stage of a run stands."""

    id: str
    use: str
    state: StageState
    attempt: int = 0
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    duration_s: float | None = None
    cached: bool = False
    metrics: dict[str, float] = {}
    outputs: dict[str, artifacts.Output] = {}
    elements: int | None = None
    elements_done: int | None = None
    quarantined: list[ElementFailure] = []
    problem: problems.Problem | None = None
    reason: str | None = None
    """Why it was skipped."""


class RunStatus(wire.Fact, frozen=True):
    """Where a run stands: the fold of its journal."""

    run_id: str
    request_id: str
    requester: str
    pipeline: str
    state: RunState
    accepted_at: dt.datetime
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    stages: list[StageStatus] = []
    problem: problems.Problem | None = None
    owner: str | None = None
    epoch: int = 0
    commits: int = 0


class RunListQuery(wire.Command, frozen=True):
    """Ask for runs, newest first."""

    state: RunState | None = None
    pipeline: str | None = None
    requester: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    before: wire.Time | None = None


class RunSummary(wire.Fact, frozen=True):
    """One line of a list of runs."""

    run_id: str
    pipeline: str
    requester: str
    state: RunState
    accepted_at: dt.datetime
    ended_at: dt.datetime | None = None
    stages: int = 0
    stages_done: int = 0


class RunList(wire.Fact, frozen=True):
    """Runs, newest first."""

    runs: list[RunSummary]


class Cancel(wire.Command, frozen=True):
    """Stop a run: ask, then force after `grace_s`; the `cancelled` event is the receipt."""

    run_id: wire.Id
    by: str
    reason: str = ""
    grace_s: wire.Seconds = 5.0


class Resume(wire.Command, frozen=True):
    """Go on with a failed or cancelled run from its finished stages, or from a chosen stage."""

    run_id: wire.Id
    by: str
    from_stage: wire.Id | None = None
    """This stage and everything after it run again, finished or not."""
    params: dict[wire.Id, dict[str, Any]] = {}
    """New parameters by stage id; a changed stage and what follows it run again."""
    backfill: bool = False
    """Run the quarantined elements of fanned-out stages again, and only those."""


class Approve(wire.Command, frozen=True):
    """Answer a gate."""

    run_id: wire.Id
    stage: wire.Id
    by: str
    approved: bool = True
    comment: str = ""


class CatalogQuery(wire.Command, frozen=True):
    """Ask which stages and templates there are; `prefix` narrows by name."""

    prefix: str = ""


class Port(wire.Fact, frozen=True):
    """An input or output of a stage."""

    name: str
    kind: str
    optional: bool = False
    many: bool = False


class StageCard(wire.Fact, frozen=True):
    """What one kind of stage does, takes and gives; `params` is a JSON Schema."""

    name: str
    summary: str
    inputs: list[Port]
    outputs: list[Port]
    params: dict[str, Any]
    cacheable: bool = True


class TemplateCard(wire.Fact, frozen=True):
    """A template and the JSON Schema of its parameters."""

    name: str
    summary: str
    params: dict[str, Any]


class StageCatalog(wire.Fact, frozen=True):
    """Everything a pipeline can be built from."""

    stages: list[StageCard]
    templates: list[TemplateCard] = []


class ModelQuery(wire.Command, frozen=True):
    """Ask for registered models."""

    name: str | None = None


class ModelPromote(wire.Command, frozen=True):
    """Make a version the champion."""

    name: str
    version: str
    by: str
    reason: str = ""


class ModelRollback(wire.Command, frozen=True):
    """Make the previous champion the champion again."""

    name: str
    by: str
    reason: str = ""


class ModelVersion(wire.Fact, frozen=True):
    """One version of a registered model."""

    version: str
    aliases: list[str] = []
    run_id: str | None = None
    metrics: dict[str, float] = {}


class ModelStatus(wire.Fact, frozen=True):
    """A registered model and its versions, newest first."""

    name: str
    versions: list[ModelVersion]


class ModelList(wire.Fact, frozen=True):
    """Registered models."""

    models: list[ModelStatus]
