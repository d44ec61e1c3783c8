"""Owns garbage collection: what no journal and no cache record refers to is deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from agent.cli import session, tracing
from protocol import artifacts, codec, commands, events

if TYPE_CHECKING:
    from protocol import client

PAGE = 1000


class Swept(msgspec.Struct, frozen=True):
    """What a collection did."""

    deleted: int
    kept: int
    records_dropped: int
    dry_run: bool


def collect(here: session.Session, *, dry_run: bool, drop_cache: bool, grace_s: float) -> Swept:
    """Delete unreachable artifacts older than the grace; needs the agent, whose journals it reads.

    The grace covers work in flight, whose outputs are stored before the journal names them.
    """
    from agent.artifacts import cache

    reachable = here.ask(_journaled)
    kept = tracing.open_store(here)
    steps = cache.Cache(kept)
    dropped = 0
    for name, record in steps.records():
        outputs = {ref.digest for ref in record.outputs.values()}
        if drop_cache and not outputs <= reachable:
            dropped += 1
            if not dry_run:
                steps.drop(name)
        else:
            reachable |= outputs
    oldest = time.time() - grace_s
    stored = list(kept.digests())
    doomed = [digest for digest, at in stored if digest not in reachable and at < oldest]
    for digest in doomed if not dry_run else ():
        kept.delete(digest)
    return Swept(len(doomed), len(stored) - len(doomed), dropped, dry_run)


async def _journaled(agent: client.Client) -> set[str]:
    """Collect the digests that any run's journal names."""
    found: set[str] = set()
    query = commands.RunListQuery(limit=PAGE)
    while True:
        page = (await agent.list(query)).runs
        for run in page:
            async for raw in agent.journal(run.run_id):
                commit = codec.decode(raw.data, events.Commit)
                found |= {ref.digest for event in commit.events for ref in _refs(event)}
        if len(page) < PAGE:
            return found
        query = commands.RunListQuery(limit=PAGE, before=page[-1].accepted_at)


def _refs(event: events.Event) -> Iterator[artifacts.ArtifactRef]:
    if isinstance(event, events.StageSucceeded):
        for output in event.outputs.values():
            yield from output if isinstance(output, list) else [output]
