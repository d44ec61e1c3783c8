"""Owns the list of runs: a projection of the journal stream, kept up to date commit by commit."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import structlog

from agent.bus import journal
from agent.run import times
from protocol import codec, commands, events

log = structlog.get_logger()

_ENDED: dict[type[events.Event], commands.RunState] = {
    events.RunSucceeded: "succeeded",
    events.RunFailed: "failed",
    events.RunCancelled: "cancelled",
}
_STAGE_ENDED = (
    events.StageSucceeded,
    events.StageFailed,
    events.StageSkipped,
    events.StageCancelled,
)


class _Entry(msgspec.Struct):
    """One run: its line in the list, and while it has not ended, what it waits for."""

    line: commands.RunSummary
    priority: int
    deadline_s: float | None
    deadline: dt.datetime | None = None
    gates: dict[str, dt.datetime | None] = {}
    """Open gates by stage, with the time at which each expires."""
    busy: set[tuple[str, int | None]] = set()
    """Stages and elements that are at work, or about to be."""

    @property
    def parked(self) -> bool:
        """Tell whether only a person, or time, can bring the run on."""
        return self.line.state == "running" and bool(self.gates) and not self.busy

    @property
    def summary(self) -> commands.RunSummary:
        """Give the line as it is shown: a parked run is waiting."""
        return msgspec.structs.replace(self.line, state="waiting") if self.parked else self.line

    @property
    def wakes_at(self) -> dt.datetime | None:
        """Give when a parked run must be taken again; None where only a person can tell."""
        dates = [date for date in [*self.gates.values(), self.deadline] if date is not None]
        return min(dates, default=None)


class Index:
    """One line per run. It can be thrown away and made again from the journal."""

    def __init__(self) -> None:
        self._runs: dict[str, _Entry] = {}
        self.parked = asyncio.Event()
        """Set when a run begins to wait; whoever watches clears it."""

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
        if run_id in self._runs and self._runs[run_id].parked:
            self.parked.set()

    def matching(self, query: commands.RunListQuery) -> commands.RunList:
        """Give the runs that match, newest first."""
        lines = (entry.summary for entry in self._runs.values())
        found = [line for line in lines if _matches(line, query)]
        found.sort(key=lambda line: (line.accepted_at, line.run_id), reverse=True)
        return commands.RunList(runs=found[: query.limit])

    def stirring(self, now: dt.datetime) -> dict[str, int]:
        """Give the runs that neither ended nor wait for a person or a date, with their priority."""
        going = ("queued", "running", "cancelling")
        return {
            run_id: entry.priority
            for run_id, entry in self._runs.items()
            if entry.line.state in going and not (entry.parked and _later(entry.wakes_at, now))
        }

    def next_wake(self) -> dt.datetime | None:
        """Give the time at which the next parked run must be taken again."""
        dates = [entry.wakes_at for entry in self._runs.values() if entry.parked]
        return min((date for date in dates if date is not None), default=None)

    def _fold(self, run_id: str, fact: events.AnyEvent) -> None:
        if isinstance(fact, events.RunAccepted):
            self._runs[run_id] = _begun(fact)
            return
        entry = self._runs.get(run_id)
        if entry is not None:
            entry.line = _evolve(entry.line, fact)
            _wait(entry, fact)


def _begun(fact: events.RunAccepted) -> _Entry:
    line = commands.RunSummary(
        run_id=fact.run_id,
        pipeline=fact.pipeline.name,
        requester=fact.requester,
        state="queued",
        accepted_at=fact.at,
        stages=len(fact.pipeline.stages),
    )
    seconds = fact.options.deadline_s
    priority = fact.options.priority
    return _Entry(
        line, priority, seconds, None if seconds is None else times.after(fact.at, seconds)
    )


def _evolve(line: commands.RunSummary, fact: events.AnyEvent) -> commands.RunSummary:
    ended = _ENDED.get(type(fact))
    if ended is not None:
        return msgspec.structs.replace(line, state=ended, ended_at=fact.at)
    match fact:
        case events.RunStarted() | events.RunRecovered():
            going: commands.RunState = "cancelling" if line.state == "cancelling" else "running"
            return msgspec.structs.replace(line, state=going)
        case events.RunResumed(again=again):
            done = line.stages - len(again)  # when a run is over, all of its stages have ended
            return msgspec.structs.replace(line, state="queued", ended_at=None, stages_done=done)
        case events.CancelRequested():
            return msgspec.structs.replace(line, state="cancelling")
    if isinstance(fact, _STAGE_ENDED) and fact.element is None:
        return msgspec.structs.replace(line, stages_done=line.stages_done + 1)
    return line


def _wait(entry: _Entry, fact: events.AnyEvent) -> None:
    """Keep account of what a run waits for, and of what is at work."""
    match fact:
        case events.StageStarted():
            entry.busy.add((fact.stage, fact.element))
        case events.ApprovalRequested():
            entry.gates[fact.stage] = fact.expires_at
        case events.StageApproved() | events.StageDenied():
            entry.gates.pop(fact.stage, None)
            entry.busy.add((fact.stage, None))
        case events.RunResumed():
            _forget(entry)
            if entry.deadline_s is not None:
                entry.deadline = times.after(fact.at, entry.deadline_s)
    if isinstance(fact, _STAGE_ENDED):
        entry.busy.discard((fact.stage, fact.element))
    elif type(fact) in _ENDED:
        _forget(entry)


def _forget(entry: _Entry) -> None:
    entry.gates, entry.busy = {}, set()


def _later(date: dt.datetime | None, now: dt.datetime) -> bool:
    return date is None or date > now


def _matches(line: commands.RunSummary, query: commands.RunListQuery) -> bool:
    return (
        (query.state is None or line.state == query.state)
        and (query.pipeline is None or line.pipeline == query.pipeline)
        and (query.requester is None or line.requester == query.requester)
        and (query.before is None or line.accepted_at < query.before)
    )
