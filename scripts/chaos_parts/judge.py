"""Owns the verdict over journals: what is promised of every run, judged from what is stored alone.

`python scripts/chaos_parts/judge.py nats://127.0.0.1:4222 --artifacts file:///data/artifacts`
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import nats

from agent.artifacts import errors, store
from protocol import artifacts, chain, codec, events, following, subjects

Broken = Literal[
    "accepted_run_is_missing",
    "acceptance_is_not_first",
    "request_has_two_runs",
    "chain",
    "took_over_under_an_old_epoch",
    "attempt_began_twice",
    "stage_succeeded_twice",
    "not_ended",
    "ended_twice",
    "went_on_after_its_end",
    "artifact_unreadable",
]
PENDING = frozenset({"accepted_run_is_missing", "not_ended"})
"""What may still be mended by waiting."""
Unit = tuple[str, int | None]
TERMINAL = events.RunSucceeded | events.RunFailed | events.RunCancelled
_TAKEN = events.RunStarted | events.RunRecovered


class Finding(msgspec.Struct, frozen=True):
    """A promise that a run breaks."""

    run_id: str
    broken: Broken
    message: str


class Verdict(msgspec.Struct, frozen=True):
    """What was looked at, and what is wrong with it."""

    runs: int
    commits: int
    artifacts: int
    takeovers: int
    findings: list[Finding]


async def verdict(
    url: str,
    artifacts_uri: str,
    accepted: Iterable[str] = (),
    *,
    prefix: str = subjects.DEFAULT_PREFIX,
) -> Verdict:
    """Judge every run in a broker's journal; `accepted` are those that a requester was promised."""
    journals = await read(url, prefix)
    with tempfile.TemporaryDirectory() as local:
        kept = store.Store(artifacts_uri, pathlib.Path(local))
        return await asyncio.to_thread(weigh, journals, kept, accepted)


def weigh(
    journals: Mapping[str, Sequence[bytes]], kept: store.Store, accepted: Iterable[str] = ()
) -> Verdict:
    """Judge journals, and the artifacts that they refer to."""
    found = list(examine(journals, accepted))
    made = {ref.digest: (run_id, ref) for run_id, ref in _outputs(journals)}
    found += [finding for run_id, ref in made.values() for finding in _read(run_id, ref, kept)]
    told = [fact for commits in journals.values() for fact in facts_of(commits)]
    return Verdict(
        runs=len(journals),
        commits=sum(map(len, journals.values())),
        artifacts=len(made),
        takeovers=sum(isinstance(fact, events.RunRecovered) for fact in told),
        findings=found,
    )


async def read(url: str, prefix: str = subjects.DEFAULT_PREFIX) -> dict[str, list[bytes]]:
    """Give the commits of every run, as they are stored."""
    names = subjects.Subjects(prefix)
    found: dict[str, list[bytes]] = collections.defaultdict(list)
    connection = await nats.connect(url)
    try:
        async for raw in following.stored(connection, names, names.all_journals):
            run_id = names.read_journal(raw.subject)
            if run_id is not None:
                found[run_id].append(raw.data)
    finally:
        await connection.close()
    return dict(found)


def examine(
    journals: Mapping[str, Sequence[bytes]], accepted: Iterable[str] = ()
) -> Iterator[Finding]:
    """Hold journals to what is promised."""
    for run_id in accepted:
        if run_id not in journals:
            yield Finding(run_id, "accepted_run_is_missing", "its requester was told that it is")
    asked: dict[tuple[str, str], str] = {}
    for run_id, commits in journals.items():
        for fault in chain.verify(commits, run_id):
            yield Finding(run_id, "chain", f"commit {fault.position}: {fault.message}")
        facts = facts_of(commits)
        yield from _accepted(run_id, facts, asked)
        yield from _ended(run_id, facts)
        yield from _owned(run_id, facts)
        yield from _worked(run_id, facts)


def _accepted(
    run_id: str, facts: Sequence[events.AnyEvent], asked: dict[tuple[str, str], str]
) -> Iterator[Finding]:
    """Look for the one acceptance, and that nobody else has the same request."""
    places = [n for n, fact in enumerate(facts) if isinstance(fact, events.RunAccepted)]
    if places != [0]:
        yield Finding(run_id, "acceptance_is_not_first", f"it is accepted at {places}")
    for fact in facts:
        if isinstance(fact, events.RunAccepted):
            other = asked.setdefault((fact.requester, fact.request_id), run_id)
            if other != run_id:
                yield Finding(run_id, "request_has_two_runs", f"the other is {other!r}")


def _ended(run_id: str, facts: Sequence[events.AnyEvent]) -> Iterator[Finding]:
    """Look for exactly one end, and nothing after it but a resume."""
    ended = False
    for fact in facts:
        if isinstance(fact, events.RunResumed):
            ended = False
        elif ended:
            twice = isinstance(fact, TERMINAL)
            broken: Broken = "ended_twice" if twice else "went_on_after_its_end"
            yield Finding(run_id, broken, f"{_kind(fact)} follows its end")
        ended = ended or isinstance(fact, TERMINAL)
    if not ended:
        last = _kind(facts[-1]) if facts else "nothing"
        yield Finding(run_id, "not_ended", f"its last event is {last}")


def _owned(run_id: str, facts: Sequence[events.AnyEvent]) -> Iterator[Finding]:
    """See that each owner came under a newer epoch."""
    epoch = 0
    for fact in facts:
        if isinstance(fact, _TAKEN):
            if fact.epoch <= epoch:
                text = f"{fact.owner!r} took it under epoch {fact.epoch} after {epoch}"
                yield Finding(run_id, "took_over_under_an_old_epoch", text)
            epoch = fact.epoch


def _worked(run_id: str, facts: Sequence[events.AnyEvent]) -> Iterator[Finding]:
    """See that no attempt began twice, and nothing that had succeeded was done again."""
    done: set[Unit] = set()
    begun: set[tuple[Unit, int]] = set()
    for fact in facts:
        match fact:
            case events.RunResumed():
                done = {unit for unit in done if not _again(unit, fact)}
                begun = {(unit, n) for unit, n in begun if unit[0] not in fact.again}
            case events.StageStarted(adopted=False) if (
                (fact.stage, fact.element),
                fact.attempt,
            ) in begun:
                text = f"{_name(fact)}, attempt {fact.attempt}"
                yield Finding(run_id, "attempt_began_twice", text)
            case events.StageStarted():
                begun.add(((fact.stage, fact.element), fact.attempt))
            case events.StageSucceeded() if (fact.stage, fact.element) in done:
                yield Finding(run_id, "stage_succeeded_twice", _name(fact))
            case events.StageSucceeded():
                done.add((fact.stage, fact.element))


def _again(unit: Unit, resumed: events.RunResumed) -> bool:
    """Tell whether a resume has a unit done again; a backfill keeps the good elements."""
    return unit[0] in resumed.again and not (resumed.backfill and unit[1] is not None)


def _outputs(
    journals: Mapping[str, Sequence[bytes]],
) -> Iterator[tuple[str, artifacts.ArtifactRef]]:
    for run_id, commits in journals.items():
        for fact in facts_of(commits):
            if isinstance(fact, events.StageSucceeded):
                for output in fact.outputs.values():
                    for ref in output if isinstance(output, list) else [output]:
                        yield run_id, ref


def _read(run_id: str, ref: artifacts.ArtifactRef, kept: store.Store) -> Iterator[Finding]:
    """See that an artifact is there, with the bytes that its digest names."""
    try:
        kept.path(ref)
    except (errors.ArtifactError, OSError) as error:
        yield Finding(run_id, "artifact_unreadable", f"{ref.digest}: {error}")


def facts_of(commits: Iterable[bytes]) -> list[events.AnyEvent]:
    """Give the events of the commits that can be read; the chain tells of the others."""
    found: list[events.AnyEvent] = []
    for data in commits:
        try:
            found += codec.decode(data, events.Commit).events
        except codec.ProtocolError:
            continue
    return found


def _kind(fact: events.AnyEvent) -> str:
    return str(fact.__struct_config__.tag)


def _name(fact: events.StageStarted | events.StageSucceeded) -> str:
    return fact.stage if fact.element is None else f"{fact.stage}[{fact.element}]"


def main() -> int:
    """Judge a broker's journals, print what is wrong, and say it with the exit status."""
    wanted = argparse.ArgumentParser(description=__doc__)
    wanted.add_argument("url")
    wanted.add_argument("--artifacts", required=True, help="URI of the artifact store")
    wanted.add_argument("--prefix", default=subjects.DEFAULT_PREFIX)
    asked = wanted.parse_args()
    found = asyncio.run(verdict(asked.url, asked.artifacts, prefix=asked.prefix))
    for finding in found.findings:
        print(f"{finding.run_id}: {finding.broken}: {finding.message}")
    print(
        f"{found.runs} runs, {found.commits} commits, {found.takeovers} take-overs, "
        f"{found.artifacts} artifacts: {len(found.findings)} findings"
    )
    return bool(found.findings)


if __name__ == "__main__":
    sys.exit(main())
