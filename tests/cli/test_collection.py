"""Owns what `mlpm gc` asks of the agent, and what it tells."""

from __future__ import annotations

import asyncio
import datetime as dt
import json

import pytest

from agent.artifacts import cache
from agent.cli import collection, console, session, tracing
from protocol import codec, commands, events
from tests.artifacts import samples

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Raw:
    def __init__(self, data):
        self.data = data


class Agent:
    """An agent as the collection sees it: pages of runs, newest first, and their journals."""

    def __init__(self, runs):
        self.runs = runs
        """(when it was accepted, its commit) by run."""

    async def list(self, query):
        lines = [
            commands.RunSummary(run, "p", "x", "succeeded", at)
            for run, (at, _) in self.runs.items()
            if query.before is None or at < query.before
        ]
        lines.sort(key=lambda line: (line.accepted_at, line.run_id), reverse=True)
        return commands.RunList(lines[: query.limit])

    async def journal(self, run_id):
        yield Raw(self.runs[run_id][1])


class Here(session.Session):
    """A call of the program whose agent is at hand."""

    def __init__(self, folder, runs):
        super().__init__(session.Options(overrides=(f"data_dir={folder}",)))
        self.agent = Agent(runs)

    def ask(self, talk):
        return asyncio.run(talk(self.agent))


def commit(run_id, outputs):
    """Give a commit in which a stage has made these outputs."""
    done = events.StageSucceeded(at=NOW, cause="", stage="s", attempt=1, outputs=outputs)
    return codec.encode(
        events.Commit(
            run_id=run_id, number=1, epoch=1, owner="a", at=NOW, previous="", events=[done]
        )
    )


@pytest.fixture
def kept(tmp_path):
    return tracing.open_store(Here(tmp_path, {})).make()


def stored(kept):
    return {digest for digest, _ in kept.digests()}


def test_what_a_journal_or_the_cache_names_is_kept(kept, tmp_path):
    one, first, second, cached, nobody = (kept.put(samples.report(n)) for n in range(5))
    cache.Cache(kept).remember("some.stage", "key", {}, {"report": cached}, {})
    runs = {
        "r1": (NOW, commit("r1", {"report": one})),
        "r2": (NOW, commit("r2", {"report": [first, second]})),
    }
    here = Here(tmp_path, runs)
    how = {"drop_cache": False, "grace_s": 0.0}
    told = collection.collect(here, dry_run=True, **how)
    assert nobody.digest in stored(kept)
    done = collection.collect(here, dry_run=False, **how)
    assert stored(kept) == {ref.digest for ref in (one, first, second, cached)}
    assert (told.deleted, told.kept, told.dry_run) == (1, 4, True)
    assert (done.deleted, done.kept, done.dry_run) == (1, 4, False)
    dropped = collection.collect(here, dry_run=False, drop_cache=True, grace_s=0.0)
    assert (dropped.deleted, dropped.kept, dropped.records_dropped) == (1, 3, 1)


def test_the_grace_is_respected(kept, tmp_path):
    ref = kept.put(samples.report())
    collection.collect(Here(tmp_path, {}), dry_run=False, drop_cache=False, grace_s=60.0)
    assert stored(kept) == {ref.digest}


def test_programs_are_told_every_number(kept, tmp_path, capsys):
    kept.put(samples.report())
    console.write_json(
        collection.collect(Here(tmp_path, {}), dry_run=True, drop_cache=False, grace_s=0.0)
    )
    assert json.loads(capsys.readouterr().out) == {
        "deleted": 1,
        "kept": 0,
        "records_dropped": 0,
        "unfinished": 0,
        "dry_run": True,
    }


def test_a_page_that_ends_within_a_moment_loses_no_run():
    times = [NOW + dt.timedelta(seconds=number // 3) for number in range(2 * collection.PAGE)]
    runs = {f"r{number:04}": (moment, b"") for number, moment in enumerate(times)}

    async def found():
        return [run async for run in collection._run_ids(Agent(runs))]

    names = asyncio.run(found())
    assert sorted(names) == sorted(runs)
