"""Owns what the agent answers: one method per endpoint, from a decoded command to its reply."""

from __future__ import annotations

from typing import Any

from agent import catalog, templates
from agent.artifacts import cache
from agent.bus import endpoints, journal, nudges, tickets
from agent.conductor import admission, forecast, host, index, ledger, scribe
from agent.run import machine, stimuli, view
from protocol import chain, codec, commands, events, problems

Change = stimuli.CancelAsked | stimuli.ResumeAsked | stimuli.Answered


class Desk:
    """Answers commands about runs, wherever they are held."""

    def __init__(
        self,
        agent_id: str,
        stages: catalog.Catalog,
        journals: journal.Journal,
        queue: tickets.Tickets,
        nudge: nudges.Nudges,
        runs: host.Host,
        listing: index.Index,
        accepting: admission.Admission,
        steps: cache.Cache,
        clock: scribe.Clock,
    ) -> None:
        self._agent_id = agent_id
        self._stages = stages
        self._journals = journals
        self._queue = queue
        self._nudges = nudge
        self._host = runs
        self._index = listing
        self._admission = accepting
        self._cache = steps
        self._clock = clock

    async def submit(
        self, request: commands.PipelineRequest, caller: endpoints.Caller
    ) -> commands.RunAccepted:
        """Accept a request."""
        return await self._admission.accept(request, traceparent=caller.traceparent)

    async def validate(
        self, request: commands.PipelineRequest, _: endpoints.Caller
    ) -> commands.ValidationReport:
        """Say whether a request would be accepted, and what its run would reuse."""
        try:
            pipeline = await self._admission.expand(request)
        except endpoints.Refusal as refusal:
            found = refusal.problem.problems or [refusal.problem]
            return commands.ValidationReport(ok=False, problems=found)
        return commands.ValidationReport(
            ok=True,
            pipeline=pipeline,
            forecast=await forecast.forecast(pipeline, request.options, self._stages, self._cache),
        )

    async def status(self, query: commands.RunQuery, _: endpoints.Caller) -> commands.RunStatus:
        """Say where a run stands."""
        held = self._host.held(query.run_id)
        if held is not None:
            return view.status(held.machine.state)
        return view.status((await self._ledger(query.run_id)).machine.state)

    async def list(self, query: commands.RunListQuery, _: endpoints.Caller) -> commands.RunList:
        """List runs, newest first."""
        return self._index.list(query)

    async def cancel(self, command: commands.Cancel, _: endpoints.Caller) -> commands.RunStatus:
        """Stop a run."""
        asked = stimuli.CancelAsked(command.by, command.reason, command.grace_s)
        cause = f"commands/cancel by {command.by}"
        return await self._change(command.run_id, asked, nudges.Cancel(cause, asked))

    async def approve(self, command: commands.Approve, _: endpoints.Caller) -> commands.RunStatus:
        """Answer a gate; a run that was parked for it goes back on the queue."""
        answer = stimuli.Answered(command.stage, command.approved, command.by, command.comment)
        cause = f"commands/approve by {command.by}"
        return await self._change(command.run_id, answer, nudges.Answer(cause, answer))

    async def resume(self, command: commands.Resume, _: endpoints.Caller) -> commands.RunStatus:
        """Let a failed or cancelled run go on."""
        book = await self._ledger(command.run_id)
        found = self._param_problems(book.machine, command.params)
        if found:
            raise endpoints.Refusal(problems.gather(found))
        asked = stimuli.ResumeAsked(
            command.by,
            from_stage=command.from_stage,
            params=command.params,
            backfill=command.backfill,
            code_version=admission.version.code_version(),
        )
        await self._commit(book, asked, f"commands/resume by {command.by}")
        return view.status(book.machine.state)

    async def catalog(
        self, query: commands.CatalogQuery, _: endpoints.Caller
    ) -> commands.StageCatalog:
        """Describe the stages and templates."""
        return commands.StageCatalog(
            stages=self._stages.cards(query.prefix), templates=templates.cards()
        )

    async def _ledger(self, run_id: str) -> ledger.Ledger:
        try:
            return await ledger.load(run_id, self._journals, self._stages)
        except ledger.RunNotFound as missing:
            raise endpoints.Refusal(
                problems.Problem(code="not_found", message=str(missing), run_id=run_id)
            ) from missing

    async def _change(
        self, run_id: str, change: Change, told: nudges.Cancel | nudges.Answer
    ) -> commands.RunStatus:
        """Have the owner of a run take a change, or commit it where nobody owns the run."""
        try:
            if not self._host.feed(run_id, change, told.cause) and not await self._nudges.tell(
                run_id, told
            ):
                await self._commit(await self._ledger(run_id), change, told.cause)
        except (machine.Refused, nudges.Refused) as refused:
            raise endpoints.Refusal(refused.problem) from refused
        return await self.status(commands.RunQuery(run_id=run_id), endpoints.Caller())

    async def _commit(self, book: ledger.Ledger, change: Change, cause: str) -> None:
        """Append a change to the journal of a run that nobody holds, and queue the run again."""
        try:
            facts, _ = book.machine.handle(change, self._clock(), cause)
        except machine.Refused as refused:
            raise endpoints.Refusal(refused.problem) from refused
        if not facts:
            return
        state = book.machine.state
        await self._append(book, facts)
        if not state.ended and not state.parked:
            token = str(book.position.number + 1)
            await self._queue.put(state.run_id, state.options.priority, token)

    async def _append(self, book: ledger.Ledger, facts: list[events.AnyEvent]) -> None:
        run_id = book.machine.state.run_id
        number = book.position.number + 1
        commit = events.Commit(
            run_id=run_id,
            number=number,
            epoch=book.epoch,
            owner=self._agent_id,
            at=self._clock(),
            previous=book.position.digest,
            events=facts,
        )
        data = codec.encode(commit)
        message_id = f"{run_id}-{number}-{self._agent_id}-{chain.digest(data)[:12]}"
        try:
            await self._journals.append(
                run_id, data, expected=book.position.sequence, message_id=message_id
            )
        except journal.Fenced as fenced:
            raise endpoints.Refusal(
                problems.Problem(
                    code="conflict",
                    message="the run changed while the command was on its way",
                    hint="send it again",
                    retryable=True,
                    run_id=run_id,
                )
            ) from fenced

    def _param_problems(
        self, folded: machine.Machine, params: dict[str, dict[str, Any]]
    ) -> list[problems.Problem]:
        changed = folded.state.pipeline_with(params)
        return self._stages.problems(changed) if params else []
