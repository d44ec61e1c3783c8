"""Owns what the agent answers: one method per endpoint, from a decoded command to its reply."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec

from agent import catalog, templates, version
from agent.artifacts import cache
from agent.bus import announce, auditing, endpoints, journal, nudges, senders, tickets
from agent.conductor import admission, forecast, host, index, ledger, scribe
from agent.execution import identity
from agent.run import machine, stimuli, view
from protocol import codec, commands, events, problems

STORED_WITHIN_S = 3.0
"""How long who sends a command waits until it is stored; the run takes it at once."""
MOST_TRIES = 10
"""How often a command is begun anew that met another change of its run."""


class Desk:
    """Answers commands about runs, wherever they are held."""

    def __init__(
        self,
        agent_id: str,
        stages: catalog.Catalog,
        *,
        journals: journal.Journal,
        queue: tickets.Tickets,
        nudge: nudges.Nudges,
        runs: host.Host,
        listing: index.Index,
        announcer: announce.Announcer,
        accepting: admission.Admission,
        steps: cache.Cache,
        identities: identity.Identities,
        audit: auditing.AuditLog,
        known: senders.Senders,
        clock: scribe.Clock,
        max_reply_bytes: int,
    ) -> None:
        self._agent_id = agent_id
        self._stages = stages
        self._journals = journals
        self._queue = queue
        self._nudges = nudge
        self._host = runs
        self._index = listing
        self._announcer = announcer
        self._admission = accepting
        self._cache = steps
        self._identities = identities
        self._audit = audit
        self._senders = known
        self._clock = clock
        self._max_reply_bytes = max_reply_bytes

    async def submit(
        self, request: commands.PipelineRequest, caller: endpoints.Caller
    ) -> commands.RunAccepted:
        """Accept a request; whoever takes it in has it watched, for it comes in several ways."""
        return await self._admission.accept(request, caller)

    async def validate(
        self, request: commands.PipelineRequest, caller: endpoints.Caller
    ) -> commands.ValidationReport:
        """Say whether a request would be accepted, and what its run would reuse."""
        try:
            pipeline = await self._admission.expand(request, caller)
        except endpoints.Refusal as refusal:
            found = refusal.problem.problems or [refusal.problem]
            return commands.ValidationReport(ok=False, problems=found)
        return commands.ValidationReport(
            ok=True,
            pipeline=pipeline,
            forecast=await forecast.forecast(
                pipeline, request.options, self._stages, self._cache, self._identities
            ),
        )

    async def status(self, query: commands.RunQuery, _: endpoints.Caller) -> commands.RunStatus:
        """Say where a run stands."""
        held = self._host.held(query.run_id)
        if held is not None and held.scribe.begun:
            whole = view.status(held.machine.state, commits=held.scribe.position.number)
        else:
            book = await self._ledger(query.run_id)
            whole = view.status(book.machine.state, commits=book.position.number)
        return view.fitting(whole, self._max_reply_bytes)

    async def runs(self, query: commands.RunListQuery, _: endpoints.Caller) -> commands.RunList:
        """List runs, newest first."""
        return self._index.matching(query)

    async def cancel(
        self, command: commands.Cancel, caller: endpoints.Caller
    ) -> commands.RunStatus:
        """Stop a run."""
        return await self._watched("cancel", self._cancel, command, caller)

    async def approve(
        self, command: commands.Approve, caller: endpoints.Caller
    ) -> commands.RunStatus:
        """Answer a gate; a run that was parked for it goes back on the queue."""
        action = "approve" if command.approved else "deny"
        return await self._watched(action, self._approve, command, caller)

    async def resume(
        self, command: commands.Resume, caller: endpoints.Caller
    ) -> commands.RunStatus:
        """Let a failed or cancelled run go on."""
        return await self._watched("resume", self._resume, command, caller)

    async def _watched(
        self, action: str, handler: endpoints.Handler, command: Any, caller: endpoints.Caller
    ) -> commands.RunStatus:
        done: commands.RunStatus = await self._audit.watched(action, handler, command, caller)
        return done

    async def _cancel(
        self, command: commands.Cancel, caller: endpoints.Caller
    ) -> commands.RunStatus:
        by = caller.signed_by or command.by
        asked = stimuli.CancelAsked(by, command.reason, command.grace_s, caller.signed_by)
        return await self._change(command.run_id, asked, f"commands/cancel by {by}")

    async def _approve(
        self, command: commands.Approve, caller: endpoints.Caller
    ) -> commands.RunStatus:
        by = caller.signed_by or command.by
        answer = stimuli.Answered(
            command.stage, command.approved, by, command.comment, caller.signed_by
        )
        return await self._change(command.run_id, answer, f"commands/approve by {by}")

    async def _resume(
        self, command: commands.Resume, caller: endpoints.Caller
    ) -> commands.RunStatus:
        by = caller.signed_by or command.by
        book = await self._ledger(command.run_id)
        self._senders.permit_stages(book.machine.state.pipeline_with({}), caller)
        found = self._param_problems(book.machine, command.params)
        if found:
            raise endpoints.Refusal(problems.gather(found))
        asked = stimuli.ResumeAsked(
            by,
            from_stage=command.from_stage,
            params=command.params,
            backfill=command.backfill,
            code_version=version.code_version(),
            signed_by=caller.signed_by,
        )
        return await self._change(command.run_id, asked, f"commands/resume by {by}")

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
        except ledger.Unreadable as broken:
            raise endpoints.Refusal(
                problems.Problem(code="artifact_corrupt", message=str(broken), run_id=run_id)
            ) from broken

    async def _change(self, run_id: str, change: nudges.Change, cause: str) -> commands.RunStatus:
        """Bring a change into a run's journal; begin anew where the run moves on meanwhile."""
        size, limit = len(msgspec.json.encode(change)), self._max_reply_bytes // 4
        if size > limit:  # the journal repeats it, beside what else there is to tell
            raise endpoints.Refusal(_too_large(size, limit))
        try:
            for _ in range(MOST_TRIES):
                with contextlib.suppress(journal.Fenced):
                    await self._bring(run_id, change, cause)
                    return await self.status(commands.RunQuery(run_id=run_id), endpoints.Caller())
        except (machine.Refused, nudges.Refused) as refused:
            raise endpoints.Refusal(refused.problem) from refused
        raise endpoints.Refusal(_too_lively(run_id))

    async def _bring(self, run_id: str, change: nudges.Change, cause: str) -> None:
        """Have the owner of a run take a change, or commit it where nobody owns the run.

        The journal is read first: an owner listens before it writes. So either it is in the journal
        that was read, and hears of the change, or its first commit fences ours off.
        """
        try:
            async with asyncio.timeout(STORED_WITHIN_S):
                if await self._host.tell(run_id, change, cause):
                    return
        except TimeoutError:
            raise endpoints.Refusal(_not_stored(run_id)) from None
        book = await self._ledger(run_id)
        if not await self._nudges.tell(run_id, change, cause):
            await self._commit(book, change, cause)

    async def _commit(self, book: ledger.Ledger, change: nudges.Change, cause: str) -> None:
        """Append a change to the journal of a run that nobody holds, and queue the run again."""
        facts, _ = book.machine.handle(change, self._clock(), cause)
        if not facts:
            return
        state = book.machine.state
        await self._append(book, facts)
        if not state.over and not state.parked:
            token = str(book.position.number + 1)
            await self._queue.put(state.run_id, state.options.priority, token)

    async def _append(self, book: ledger.Ledger, facts: list[events.AnyEvent]) -> None:
        accepted = book.machine.state.accepted
        number = book.position.number + 1
        commit = events.Commit(
            run_id=accepted.run_id,
            number=number,
            epoch=book.epoch,
            owner=self._agent_id,
            at=self._clock(),
            previous=book.position.digest,
            events=facts,
        )
        data = codec.encode(commit)
        await self._journals.append(accepted.run_id, data, expected=book.position.sequence)
        await self._announcer.commit(commit, accepted.traceparent)

    def _param_problems(
        self, folded: machine.Machine, params: dict[str, dict[str, Any]]
    ) -> list[problems.Problem]:
        changed = folded.state.pipeline_with(params)
        return self._stages.check(changed) if params else []


def _too_large(size: int, limit: int) -> problems.Problem:
    message = f"the command takes {size} bytes of the journal; at most {limit} are taken"
    return problems.Problem("payload_too_large", message, path="$")


def _not_stored(run_id: str) -> problems.Problem:
    return problems.Problem(
        code="unavailable",
        message="the run follows the command, but the journal cannot be written at present",
        hint="ask for the status; if it does not show the command by then, send it again",
        retryable=True,
        run_id=run_id,
    )


def _too_lively(run_id: str) -> problems.Problem:
    return problems.Problem(
        code="conflict",
        message="the run changed each time the command was about to be stored",
        hint="send it again",
        retryable=True,
        run_id=run_id,
    )
