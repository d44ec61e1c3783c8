"""Owns the acceptance of requests: checked whole, put on disk, and only then answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from agent import catalog, version
from agent.bus import endpoints, journal, tickets
from agent.conductor import scribe
from protocol import codec, commands, events, pipelines, problems, subjects

log = structlog.get_logger()

Designer = Callable[[commands.PipelineRequest], Awaitable[pipelines.Pipeline]]
"""Expands a template after a look at the data; raises endpoints.Refusal."""


class Admission:
    """Turns requests into accepted runs."""

    def __init__(
        self,
        agent_id: str,
        stages: catalog.Catalog,
        journals: journal.Journal,
        queue: tickets.Tickets,
        design: Designer,
        clock: scribe.Clock,
    ) -> None:
        self._agent_id = agent_id
        self._stages = stages
        self._journals = journals
        self._queue = queue
        self._design = design
        self._clock = clock

    async def expand(self, request: commands.PipelineRequest) -> pipelines.Pipeline:
        """Give the pipeline as it would run; raise endpoints.Refusal with all its problems."""
        pipeline = request.pipeline
        if pipeline is None:
            pipeline = await self._design(request)
        found = self._stages.problems(pipeline)
        if found:
            raise endpoints.Refusal(problems.gather(found))
        return pipeline

    async def accept(
        self, request: commands.PipelineRequest, *, traceparent: str | None = None
    ) -> commands.RunAccepted:
        """Store the request and its place in the queue; the same request_id is the same run."""
        run_id = subjects.run_id_for(request.requester, request.request_id)
        pipeline = await self.expand(request)
        commit = self._first_commit(run_id, request, pipeline, traceparent)
        stored, _ = await asyncio.gather(
            self._store(run_id, codec.encode(commit)),
            self._queue.put(run_id, request.options.priority, "accepted"),
        )
        if stored:
            log.info("run.accepted", run=run_id, pipeline=pipeline.name, by=request.requester)
        return commands.RunAccepted(
            run_id=run_id, request_id=request.request_id, duplicate=not stored
        )

    async def _store(self, run_id: str, data: bytes) -> bool:
        try:
            await self._journals.append(run_id, data, expected=0, message_id=f"{run_id}-1-0")
        except journal.Fenced:
            return False
        return True

    def _first_commit(
        self,
        run_id: str,
        request: commands.PipelineRequest,
        pipeline: pipelines.Pipeline,
        traceparent: str | None,
    ) -> events.Commit:
        now = self._clock()
        accepted = events.RunAccepted(
            at=now,
            cause=f"requests/{request.request_id}",
            run_id=run_id,
            request_id=request.request_id,
            requester=request.requester,
            pipeline=pipeline,
            options=request.options,
            template=request.template,
            code_version=version.code_version(),
            traceparent=traceparent,
        )
        return events.Commit(
            run_id=run_id,
            number=1,
            epoch=0,
            owner=self._agent_id,
            at=now,
            previous="",
            events=[accepted],
        )
