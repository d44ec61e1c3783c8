"""Owns garbage collection: what no run and no cached result refers to is deleted."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from agent.artifacts import cache, store


class Swept(msgspec.Struct, frozen=True):
    """What a collection did, or would do."""

    deleted: int
    kept: int
    records_dropped: int
    unfinished: int
    """Files removed that writers which died had left on this machine."""


def collect(
    kept: store.Store,
    reachable: Iterable[str],
    grace_s: float,
    *,
    drop_cache: bool = False,
    dry_run: bool = False,
) -> Swept:
    """Delete artifacts older than the grace whose digest is not among the `reachable` ones.

    Gather `reachable` first and call this then: what is stored meanwhile is younger than the
    grace, as is what is found whole and used again on a local disk. The outputs of a cached
    result are reachable too. A cached result of which an output is gone is dropped; with
    `drop_cache` so is every one older than the grace whose outputs no run refers to.
    """
    oldest = time.time() - grace_s
    stored = dict(kept.digests())
    by_runs = frozenset(reachable)
    needed = set(by_runs)
    unwanted: list[str] = []
    for name, changed, record in cache.Cache(kept).dated():
        outputs = {ref.digest for ref in record.outputs.values()} if record else set()
        if _is_useful(record, outputs, stored) and not (
            drop_cache and changed < oldest and not outputs <= by_runs
        ):
            needed |= outputs
        elif changed < oldest:
            unwanted.append(name)
    doomed = [d for d, changed in stored.items() if d not in needed and changed < oldest]
    unfinished = 0
    if not dry_run:
        _remove(kept, unwanted, doomed, oldest)
        unfinished = kept.sweep(oldest)
    return Swept(len(doomed), len(stored) - len(doomed), len(unwanted), unfinished)


def _is_useful(record: cache.Record | None, outputs: set[str], stored: dict[str, float]) -> bool:
    return record is not None and all(digest in stored for digest in outputs)


def _remove(kept: store.Store, records: list[str], digests: list[str], oldest: float) -> None:
    """Remove records before what they refer to, so that none is found without it."""
    for name in records:
        kept.remove_record(name)
    for digest in digests:
        kept.delete(digest, before=oldest)
