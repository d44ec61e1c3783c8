"""Owns the acceptance of requests: checked whole, put on disk, and only then answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from agent import catalog, limits, version
from agent.bus import announce, endpoints, journal, senders, tickets
from agent.conductor import backlog, scribe
from protocol import codec, commands, events, pipelines, problems, subjects

log = structlog.get_logger()

Designer = Callable[[commands.PipelineRequest], Awaitable[pipelines.Pipeline]]
"""Expands a template after a look at the data; raises endpoints.Refusal."""


class IdTaken(endpoints.Refusal):
    """Another request has this request_id: somebody else's, or for something else."""

    def __init__(self, run_id: str, what: str) -> None:
        message = f"this request_id is that of another request, which {what}"
        hint = "choose another request_id; the same request, signed as before, is the same run"
        problem = problems.Problem(
            "conflict", message, path="$.request_id", hint=hint, run_id=run_id
        )
        super().__init__(problem)


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
        known: senders.Senders,
        waiting: backlog.Backlog,
        allowed: limits.Limits,
        clock: scribe.Clock,
        max_commit_bytes: int,
    ) -> None:
        self._agent_id = agent_id
        self._stages = stages
        self._journals = journals
        self._queue = queue
        self._announcer = announcer
        self._design = design
        self._senders = known
        self._waiting = waiting
        self._limits = allowed
        self._clock = clock
        self._max_commit_bytes = max_commit_bytes

    async def expand(
        self, request: commands.PipelineRequest, caller: endpoints.Caller
    ) -> pipelines.Pipeline:
        """Give the pipeline as it would run; raise endpoints.Refusal with all its problems."""
        pipeline, who = request.pipeline, limits.asker(request, caller)
        run_id = subjects.run_id_for(request.requester, request.request_id)
        if pipeline is None:
            _refuse(self._limits.check(request, run_id, who))  # before the look at the data
            pipeline = await self._design(request)
        limited = self._limits.check(request, run_id, who, pipeline)
        _refuse([*self._stages.check(pipeline), *limited])
        return pipeline

    async def accept(
        self, request: commands.PipelineRequest, caller: endpoints.Caller
    ) -> commands.RunAccepted:
        """Store the request and its place in the queue; the same request_id is the same run.

        A run behind too many others of its requester gets its place later: see `backlog`.
        """
        run_id = subjects.run_id_for(request.requester, request.request_id)
        if request.template is not None:  # its data may have changed since
            first = await self._journals.first(run_id)
            if first is not None:
                _check_same(first, request, None, caller)
                return _accepted(run_id, request, duplicate=True)
        pipeline, who = await self.expand(request, caller), limits.asker(request, caller)
        self._senders.permit_stages(pipeline, caller)
        commit = self._first_commit(run_id, request, pipeline, caller)
        data = codec.encode(commit)
        if len(data) > self._max_commit_bytes:
            raise endpoints.Refusal(_too_large(len(data), self._max_commit_bytes))
        share = backlog.share(request.requester, caller.signed_by, request.options.priority)
        with (
            self._limits.entering(run_id, who),
            self._waiting.joining(run_id, share) as line,
        ):
            stored, _ = await asyncio.gather(
                self._store(run_id, data), self._line_up(run_id, line, share.priority)
            )
            line.kept = stored
        if not stored:
            return await self._again(run_id, request, pipeline, caller)
        log.info("run.accepted", run=run_id, pipeline=pipeline.name, by=request.requester)
        await self._announcer.commit(commit, caller.traceparent)
        return _accepted(run_id, request, duplicate=False)

    async def _again(
        self,
        run_id: str,
        request: commands.PipelineRequest,
        pipeline: pipelines.Pipeline,
        caller: endpoints.Caller,
    ) -> commands.RunAccepted:
        """Answer a request whose run is there already; raise IdTaken if it is another's."""
        first = await self._journals.first(run_id)
        if first is None:  # whom we asked is behind those who have stored it
            raise journal.Unavailable("what it has of the run cannot be read yet")
        _check_same(first, request, pipeline, caller)
        return _accepted(run_id, request, duplicate=True)

    async def _line_up(self, run_id: str, line: backlog.Joined, priority: int) -> None:
        if line.stands:
            await self._queue.put(run_id, priority, "accepted")

    async def _store(self, run_id: str, data: bytes) -> bool:
        try:
            await self._journals.append(run_id, data, expected=0)
        except journal.Fenced:
            return False
        return True

    def _first_commit(
        self,
        run_id: str,
        request: commands.PipelineRequest,
        pipeline: pipelines.Pipeline,
        caller: endpoints.Caller,
    ) -> events.Commit:
        now, who = self._clock(), limits.asker(request, caller)
        accepted = events.RunAccepted(
            at=now,
            cause=f"requests/{request.request_id}",
            run_id=run_id,
            request_id=request.request_id,
            requester=request.requester,
            pipeline=pipeline,
            options=self._limits.options(request.options, who),
            template=request.template,
            code_version=version.code_version(),
            traceparent=caller.traceparent,
            signed_by=caller.signed_by,
            bounds=self._limits.bounds(who),
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


def _check_same(
    first: bytes,
    request: commands.PipelineRequest,
    pipeline: pipelines.Pipeline | None,
    caller: endpoints.Caller,
) -> None:
    """Raise IdTaken unless a run's first commit is of the same sender and of the same request.

    Of a template the journal has but its name, and the pipeline may be another one by now.
    """
    run_id = subjects.run_id_for(request.requester, request.request_id)
    accepted = _read(first)
    if accepted is None:
        raise IdTaken(run_id, "cannot be read")
    if accepted.signed_by != caller.signed_by:
        raise IdTaken(run_id, "has another signature, or none" if caller.key else "is signed")
    if accepted.template != request.template:
        raise IdTaken(run_id, "asks for another template, or for a pipeline")
    if request.template is None and _canonical(accepted.pipeline) != _canonical(pipeline):
        raise IdTaken(run_id, "asks for another pipeline")


def _read(first: bytes) -> events.RunAccepted | None:
    try:
        found = codec.decode(first, events.Commit).events
    except codec.ProtocolError:
        return None
    return found[0] if found and isinstance(found[0], events.RunAccepted) else None


def _canonical(pipeline: pipelines.Pipeline | None) -> bytes:
    """Write a pipeline in one way, whatever the order in which its maps came."""
    return msgspec.json.encode(pipeline, order="deterministic")


def _refuse(found: list[problems.Problem]) -> None:
    if found:
        raise endpoints.Refusal(problems.gather(found))


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
