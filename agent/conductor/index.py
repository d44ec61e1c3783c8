"""Owns the list of runs: a projection of the journal stream, kept up to date commit by commit."""

from __future__ import annotations


import msgspec
import structlog

from agent.bus import journal
from protocol import codec, commands, events

log = structlog.get_logger()

_ENDED: dict[type[events.Event], commands.RunState] = {
    events.RunSucceeded: "succeeded",
    events.RunFailed: "failed",
    events.RunCancelled: "cancelled",
}
_STAGE_ENDED = (events.StageSucceeded, events.StageFailed, events.StageSkipped)


class Index:
    """One summary per run. It can be thrown away and made again from the journal."""

    def __init__(self) -> None:
        self._runs: dict[str, commands.RunSummary] = {}

    async def follow(self, journals: journal.Journal) -> None:
        """Read the journal stream from its start and go on with it, until cancelled."""
        await journals.watch(self.take)

    async def take(self, run_id: str, data: bytes) -> None:
        """Fold one commit in."""
        try:
            commit = codec.decode(data, events.Commit)
        except codec.ProtocolError as error:
            log.warning("commit.unreadable", run=run_id, error=str(error))
            return
        for fact in commit.events:
            self._fold(run_id, fact)

    def list(self, query: commands.RunListQuery) -> commands.RunList:
        """Give the runs that match, newest first."""
        found = [summary for summary in self._runs.values() if _matches(summary, query)]
        found.sort(key=lambda summary: (summary.accepted_at, summary.run_id), reverse=True)
        return commands.RunList(runs=found[: query.limit])

    def unfinished(self) -> list[commands.RunSummary]:
        """Give the runs that have not ended and do not wait for a person."""
        going = ("queued", "running", "cancelling")
        return [summary for summary in self._runs.values() if summary.state in going]

    def _fold(self, run_id: str, fact: events.AnyEvent) -> None:
        if isinstance(fact, events.RunAccepted):
            self._runs[run_id] = commands.RunSummary(
                run_id=run_id,
                pipeline=fact.pipeline.name,
                requester=fact.requester,
                state="queued",
                accepted_at=fact.at,
                stages=len(fact.pipeline.stages),
            )
            return
        summary = self._runs.get(run_id)
        if summary is not None:
            self._runs[run_id] = _evolve(summary, fact)


def _evolve(summary: commands.RunSummary, fact: events.AnyEvent) -> commands.RunSummary:
    ended = _ENDED.get(type(fact))
    if ended is not None:
        return msgspec.structs.replace(summary, state=ended, ended_at=fact.at)
    match fact:
        case events.RunStarted() | events.RunRecovered() | events.StageApproved():
            return msgspec.structs.replace(summary, state="running")
        case events.RunResumed(again=again):
            done = max(0, summary.stages_done - len(again))
            return msgspec.structs.replace(summary, state="queued", ended_at=None, stages_done=done)
        case events.CancelRequested():
            return msgspec.structs.replace(summary, state="cancelling")
    if isinstance(fact, _STAGE_ENDED) and fact.element is None:
        return msgspec.structs.replace(summary, stages_done=summary.stages_done + 1)
    return summary


def _matches(summary: commands.RunSummary, query: commands.RunListQuery) -> bool:
    return (
        (query.state is None or summary.state == query.state)
        and (query.pipeline is None or summary.pipeline == query.pipeline)
        and (query.requester is None or summary.requester == query.requester)
        and (query.before is None or summary.accepted_at < query.before)
    )
