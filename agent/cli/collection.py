"""Owns the command's side of garbage collection: which artifacts the journals refer to."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import msgspec

from agent.cli import session, tracing
from protocol import artifacts, codec, commands, events

if TYPE_CHECKING:
    from protocol import client

PAGE = 1000
MOMENT = dt.timedelta(microseconds=1)


class Swept(msgspec.Struct, frozen=True):
    """What a collection did, or would do."""

    deleted: int
    kept: int
    records_dropped: int
    unfinished: int
    """Files removed that writers which died had left on this machine."""
    dry_run: bool


def collect(here: session.Session, *, dry_run: bool, drop_cache: bool, grace_s: float) -> Swept:
    """Delete unreachable artifacts older than the grace; needs the agent, whose journals it reads.

    The grace covers work in flight, whose outputs are stored before the journal names them.
    """
    from agent.artifacts import garbage

    reachable = here.ask(_journaled)
    kept = tracing.open_store(here)
    swept = garbage.collect(kept, reachable, grace_s, drop_cache=drop_cache, dry_run=dry_run)
    return Swept(**msgspec.structs.asdict(swept), dry_run=dry_run)


async def _journaled(agent: client.Client) -> set[str]:
    """Collect the digests that any run's journal names."""
    found: set[str] = set()
    async for run_id in _run_ids(agent):
        async for raw in agent.journal(run_id):
            commit = codec.decode(raw.data, events.Commit)
            found |= {ref.digest for event in commit.events for ref in _refs(event)}
    return found


async def _run_ids(agent: client.Client) -> AsyncIterator[str]:
    """Walk over all runs. Those accepted at one moment may lie on both sides of a page's end."""
    seen: set[str] = set()
    query = commands.RunListQuery(limit=PAGE)
    while True:
        page = (await agent.list(query)).runs
        new = {run.run_id for run in page} - seen
        for run_id in new:
            yield run_id
        if len(page) < PAGE or not new:
            return
        seen |= new
        query = commands.RunListQuery(limit=PAGE, before=page[-1].accepted_at + MOMENT)


def _refs(event: events.Event) -> Iterator[artifacts.ArtifactRef]:
    if isinstance(event, events.StageSucceeded):
        for output in event.outputs.values():
            yield from output if isinstance(output, list) else [output]
