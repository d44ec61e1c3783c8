"""Owns the acceptance of requests: checked whole, put on disk, and only then answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from agent import catalog, version
from agent.bus import announce, endpoints, journal, tickets
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
        *,
        announcer: announce.Announcer,
        design: Designer,
        clock: scribe.Clock,
        max_commit_bytes: int,
    ) -> None:
        self._agent_id = agent_id
        self._stages = stages
        self._journals = journals
        self._queue = queue
        self._announcer = announcer
        self._design = design
        self._clock = clock
        self._max_commit_bytes = max_commit_bytes

    async def expand(self, request: commands.PipelineRequest) -> pipelines.Pipeline:
        """Give the pipeline as it would run; raise endpoints.Refusal with all its problems."""
        pipeline = request.pipeline
        if pipeline is None:
            pipeline = await self._design(request)
        found = self._stages.check(pipeline)
        if found:
            raise endpoints.Refusal(problems.gather(found))
        return pipeline

    async def accept(
        self, request: commands.PipelineRequest, *, traceparent: str | None = None
    ) -> commands.RunAccepted:
        """Store the request and its place in the queue; the same request_id is the same run."""
        run_id = subjects.run_id_for(request.requester, request.request_id)
        if request.template is not None and await self._journals.last(run_id) is not None:
            return _accepted(run_id, request, duplicate=True)  # its data may have changed since
        pipeline = await self.expand(request)
        commit = self._first_commit(run_id, request, pipeline, traceparent)
        data = codec.encode(commit)
        if len(data) > self._max_commit_bytes:
            raise endpoints.Refusal(_too_large(len(data), self._max_commit_bytes))
        stored, _ = await asyncio.gather(
            self._store(run_id, data),
            self._queue.put(run_id, request.options.priority, "accepted"),
        )
        if stored:
            log.info("run.accepted", run=run_id, pipeline=pipeline.name, by=request.requester)
            await self._announcer.commit(commit, traceparent)
        return _accepted(run_id, request, duplicate=not stored)

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


def _accepted(
    run_id: str, request: commands.PipelineRequest, *, duplicate: bool
) -> commands.RunAccepted:
    return commands.RunAccepted(run_id, request.request_id, duplicate=duplicate)


def _too_large(found: int, limit: int) -> problems.Problem:
    return problems.Problem(
        code="payload_too_large",
        message=f"the accepted request takes {found} bytes of the journal, and {limit} are allowed",
        path="$.pipeline",
        hint="fan out with for_each instead of listing stages, or raise the server's max_payload",
    )
