"""Owns what a collection deletes and what it leaves."""

from __future__ import annotations

import pytest

from agent.artifacts import cache, files, garbage
from tests.artifacts import samples

HOUR = 3600.0


def put(kept, number):
    return kept.put(samples.report(number))


def remember(kept, name, *refs):
    outputs = {f"port{index}": ref for index, ref in enumerate(refs)}
    cache.Cache(kept).remember("some.stage", name, {"name": name}, outputs, {})


def stored(kept):
    return {digest for digest, _ in kept.digests()}


def digests(*refs):
    return {ref.digest for ref in refs}


def records(kept):
    return sorted(record.key for _, record in cache.Cache(kept).records())


@pytest.fixture
def old(tmp_path):
    """Make all that a local store holds two hours older."""

    def make():
        for path in (tmp_path / "store").rglob("*"):
            if path.is_file():
                samples.age(path, 2 * HOUR)

    return make


def test_what_nothing_refers_to_is_deleted_and_the_rest_is_kept(kept):
    by_run, by_cache, nobody = (put(kept, n) for n in range(3))
    remember(kept, "a", by_cache)
    swept = garbage.collect(kept, {by_run.digest}, 0)
    assert stored(kept) == digests(by_run, by_cache)
    assert (swept.deleted, swept.kept, swept.records_dropped) == (1, 2, 0)
    assert nobody.digest not in stored(kept)


def test_what_is_deleted_is_gone_from_this_machine_too(remote, tmp_path):
    ref = put(remote, 1)
    copy = remote.path(ref)
    assert copy.is_relative_to(tmp_path)
    garbage.collect(remote, (), 0)
    assert not copy.exists()


def test_a_dry_run_tells_the_same_and_changes_nothing(kept):
    lost, nobody, gone = (put(kept, n) for n in range(3))
    remember(kept, "a", gone)
    kept.delete(gone.digest)
    before = (stored(kept), records(kept))
    told = garbage.collect(kept, (), 0, dry_run=True)
    assert (stored(kept), records(kept)) == before
    done = garbage.collect(kept, (), 0)
    assert told == done == garbage.Swept(2, 0, 1, 0)
    assert not stored(kept) & digests(lost, nobody)


def test_what_is_younger_than_the_grace_is_left(local, old):
    aged = put(local, 1)
    old()
    young = put(local, 2)
    assert garbage.collect(local, (), HOUR).deleted == 1
    assert stored(local) == digests(young)
    assert aged.digest != young.digest


def test_what_a_run_finds_and_uses_again_counts_as_young(local, old):
    ref = put(local, 1)
    remember(local, "a", ref)
    old()
    assert cache.Cache(local).lookup("some.stage", "a")
    assert garbage.collect(local, (), HOUR, drop_cache=True).deleted == 0
    assert stored(local) == digests(ref)


def test_dropping_the_cache_keeps_what_runs_refer_to(kept):
    shared, own, cached = (put(kept, n) for n in range(3))
    remember(kept, "all of a run's", shared)
    remember(kept, "in part", shared, cached)
    swept = garbage.collect(kept, digests(shared, own), 0, drop_cache=True)
    assert records(kept) == ["all of a run's"]
    assert stored(kept) == digests(shared, own)
    assert (swept.deleted, swept.records_dropped) == (1, 1)


def test_dropping_the_cache_leaves_what_is_younger_than_the_grace(local, old):
    remember(local, "old", put(local, 1))
    old()
    ref = put(local, 2)
    remember(local, "young", ref)
    garbage.collect(local, (), HOUR, drop_cache=True)
    assert records(local) == ["young"]
    assert stored(local) == digests(ref)


def test_a_record_whose_outputs_are_gone_is_dropped(kept):
    there, gone = put(kept, 1), put(kept, 2)
    remember(kept, "whole", there)
    remember(kept, "in part", there, gone)
    kept.delete(gone.digest)
    assert garbage.collect(kept, (), 0).records_dropped == 1
    assert records(kept) == ["whole"]
    assert stored(kept) == digests(there)


def test_what_only_a_useless_record_refers_to_goes_with_it(kept):
    left, gone = put(kept, 1), put(kept, 2)
    remember(kept, "in part", left, gone)
    kept.delete(gone.digest)
    assert garbage.collect(kept, (), 0) == garbage.Swept(1, 0, 1, 0)
    assert stored(kept) == set()


def test_a_record_that_cannot_be_read_is_dropped_once_it_is_old(local, old):
    local.write_record("cache/some.stage/x.json", b"{")
    assert garbage.collect(local, (), HOUR).records_dropped == 0
    old()
    assert garbage.collect(local, (), HOUR).records_dropped == 1
    assert local.records("cache") == []


def test_files_that_dead_writers_left_are_swept_after_the_grace(local, tmp_path):
    unfinished = tmp_path / "store" / "tmp" / "rest"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"half")
    assert garbage.collect(local, (), HOUR).unfinished == 0
    samples.age(unfinished, 2 * HOUR)
    assert garbage.collect(local, (), HOUR, dry_run=True).unfinished == 0
    assert unfinished.exists()
    assert garbage.collect(local, (), HOUR).unfinished == 1
    assert not unfinished.exists()


def test_an_empty_store_has_nothing_to_collect(kept):
    assert garbage.collect(kept, (), 0) == garbage.Swept(0, 0, 0, 0)


def test_a_collection_does_not_disturb_writers(local):
    with files.scratch(local._scratch) as path:
        path.write_bytes(b"being written")
        garbage.collect(local, (), HOUR)
        assert path.read_bytes() == b"being written"
