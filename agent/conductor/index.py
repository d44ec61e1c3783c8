"""Owns the list of runs: a projection of the journal stream, kept up to date commit by commit."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys

import msgspec
import structlog

from agent.bus import journal
from agent.conductor import backlog
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
    share: backlog.Share
    deadline_s: float | None
    deadline: dt.datetime | None = None
    gates: dict[str, dt.datetime | None] | None = None
    """Open gates by stage, with the time at which each expires."""
    busy: set[tuple[str, int | None]] | None = None
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
        dates = [date for date in [*(self.gates or {}).values(), self.deadline] if date is not None]
        return min(dates, default=None)


class Index:
    """One line per run. It can be thrown away and made again from the journal."""

    def __init__(self, waiting: backlog.Backlog | None = None) -> None:
        self._runs: dict[str, _Entry] = {}
        self._going: dict[str, dict[str, _Entry]] = {}
        """By requester, what has not ended."""
        self.waiting = waiting or backlog.Backlog()
        """The runs that nobody has begun."""
        self.parked = asyncio.Event()
        """Set when a run begins to wait; whoever watches clears it."""

    async def follow(self, journals: journal.Journal) -> None:
        """Read the journal stream from its start and go on with it, until cancelled."""
        await journals.watch(self.take, self._caught_up)

    def _caught_up(self) -> None:
        if not self.waiting.complete.is_set():
            self.waiting.complete.set()
            self.parked.set()

    async def take(self, run_id: str, data: bytes) -> None:
        """Fold one commit in."""
        try:
            commit = codec.decode(data, events.Commit)
        except codec.ProtocolError as error:
            log.warning("commit.unreadable", run=run_id, error=str(error))
            return
        try:
            for fact in commit.events:
                self._fold(run_id, fact)
                self._line_up(run_id, commit.owner)
                self._count(run_id)
        except Exception as error:  # noqa: BLE001 - whatever somebody wrote there, the list goes on
            log.warning("commit.unreadable", run=run_id, error=str(error))
        if run_id in self._runs and self._runs[run_id].parked:
            self.parked.set()

    def matching(self, query: commands.RunListQuery) -> commands.RunList:
        """Give the runs that match, newest first."""
        lines = (entry.summary for entry in self._runs.values())
        found = [line for line in lines if _matches(line, query)]
        found.sort(key=lambda line: (line.accepted_at, line.run_id), reverse=True)
        return commands.RunList(runs=found[: query.limit])

    def stirring(self, now: dt.datetime) -> dict[str, int]:
        """Give the runs that should be in the queue or at work, with their priority.

        They neither ended nor wait for a person, a date, or others of their requester.
        """
        going = ("queued", "running", "cancelling")
        return {
            run_id: entry.share.priority
            for run_id, entry in self._runs.items()
            if entry.line.state in going
            and not (entry.parked and _later(entry.wakes_at, now))
            and self.waiting.stands(run_id)
        }

    def knows(self, run_id: str) -> bool:
        """Tell whether it has heard of a run."""
        return run_id in self._runs

    def going(self, requester: str) -> dict[str, commands.RunState]:
        """Give the runs of a requester that neither ended nor wait for a person or a date."""
        own = self._going.get(requester, {})
        return {run: entry.line.state for run, entry in own.items() if not entry.parked}

    def next_wake(self) -> dt.datetime | None:
        """Give the time at which the next parked run must be taken again."""
        dates = [entry.wakes_at for entry in self._runs.values() if entry.parked]
        return min((date for date in dates if date is not None), default=None)

    def _line_up(self, run_id: str, owner: str) -> None:
        """Keep account of who has not begun."""
        entry = self._runs.get(run_id)
        if entry is not None and entry.line.state == "queued":
            self.waiting.join(run_id, entry.share)
        else:
            self.waiting.leave(run_id, owner)

    def _count(self, run_id: str) -> None:
        """Keep account of who has how many."""
        entry = self._runs.get(run_id)
        if entry is None:
            return
        if entry.line.state not in _ENDED.values():
            self._going.setdefault(entry.share.requester, {})[run_id] = entry
        elif (own := self._going.get(entry.share.requester)) and own.pop(run_id, None) and not own:
            del self._going[entry.share.requester]

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
        pipeline=sys.intern(fact.pipeline.name),  # many have the same
        requester=sys.intern(fact.requester),
        state="queued",
        accepted_at=fact.at,
        stages=len(fact.pipeline.stages),
    )
    seconds = fact.options.deadline_s
    priority = fact.options.priority
    share = backlog.share(fact.requester, fact.signed_by, priority)
    return _Entry(line, share, seconds, None if seconds is None else times.after(fact.at, seconds))


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
            _busy(entry).add((fact.stage, fact.element))
        case events.ApprovalRequested():
            entry.gates = (entry.gates or {}) | {fact.stage: fact.expires_at}
        case events.StageApproved() | events.StageDenied():
            (entry.gates or {}).pop(fact.stage, None)
            _busy(entry).add((fact.stage, None))
        case events.RunResumed():
            _forget(entry)
            if entry.deadline_s is not None:
                entry.deadline = times.after(fact.at, entry.deadline_s)
    if isinstance(fact, _STAGE_ENDED):
        _busy(entry).discard((fact.stage, fact.element))
    elif type(fact) in _ENDED:
        _forget(entry)


def _forget(entry: _Entry) -> None:
    entry.gates = entry.busy = None


def _busy(entry: _Entry) -> set[tuple[str, int | None]]:
    """Give what is at work; most runs that are listed have nothing, and so no set for it."""
    if entry.busy is None:
        entry.busy = set()
    return entry.busy


def _later(date: dt.datetime | None, now: dt.datetime) -> bool:
    return date is None or date > now


def _matches(line: commands.RunSummary, query: commands.RunListQuery) -> bool:
    return (
        (query.state is None or line.state == query.state)
        and (query.pipeline is None or line.pipeline == query.pipeline)
        and (query.requester is None or line.requester == query.requester)
        and (query.before is None or line.accepted_at < query.before)
    )
