"""Owns the design of a pipeline from a template: looks at the data first, then lays the stages."""

from __future__ import annotations

import itertools
from typing import Any

from agent import templates
from agent.artifacts import store
from agent.bus import endpoints
from agent.execution import base
from agent.run import effects
from protocol import artifacts, commands, pipelines, problems, subjects
from stages import values

_RUN = "design"


class Designer:
    """Expands templates. The look at the data is cached, so the run does not read it twice."""

    def __init__(self, executor: base.Executor, kept: store.Store) -> None:
        self._executor = executor
        self._store = kept
        self._numbers = itertools.count(1)

    async def design(self, request: commands.PipelineRequest) -> pipelines.Pipeline:
        """Give the pipeline of a request's template; raise endpoints.Refusal with its problems."""
        try:
            source = templates.source(request.template or "", request.params)
            table = await self._run(source, {}, request)
            look = pipelines.Stage(id="profile", use="quality.profile")
            report = await self._run(look, {"table": table}, request)
            profile = values.Report.load(self._store.path(report))
            return templates.design(request.template or "", request.params, profile.data)
        except templates.InvalidTemplate as invalid:
            raise endpoints.Refusal(problems.gather(invalid.problems)) from invalid

    async def _run(
        self,
        stage: pipelines.Stage,
        inputs: dict[str, artifacts.Output],
        request: commands.PipelineRequest,
    ) -> artifacts.ArtifactRef:
        run_id = subjects.run_id_for(request.requester, request.request_id)
        work = effects.Work(
            # Several may design the same at a time; the number tells one look from another.
            key=effects.WorkKey(f"{_RUN}-{run_id}", stage.id, None, next(self._numbers)),
            use=stage.use,
            placement="ray",
            params=stage.params,
            inputs=inputs,
            cache=request.options.cache,
            seed=request.options.seed,
        )
        outcome = await self._executor.run(work, _Quiet())
        if not isinstance(outcome, base.Succeeded):
            raise endpoints.Refusal(_problem(outcome))
        kind = "report" if inputs else "table"
        return next(ref for ref in outcome.outputs.values() if ref.kind == kind)


def _problem(outcome: base.Failed | base.Halted) -> problems.Problem:
    if isinstance(outcome, base.Failed):
        return outcome.problem
    return problems.Problem(code="cancelled", message="the look at the data was stopped")


class _Quiet:
    """Hears nothing: nobody follows a design."""

    def began(self) -> None:
        """Ignore the beginning."""

    def progress(self, *_: Any) -> None:
        """Ignore progress."""

    def note(self, *_: Any) -> None:
        """Ignore facts."""
