"""Owns what the artifact store promises, on a local disk and elsewhere."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import pathlib
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from agent.artifacts import errors, files, store
from stages import registry, values
from tests.artifacts import samples

ROOT = pathlib.Path(__file__).parents[2]
DAMAGE = ["corrupted", "truncated", "missing"]


def stored(kept):
    return [digest for digest, _ in kept.digests()]


def test_there_is_a_sample_of_every_kind():
    assert set(samples.KINDS) == set(registry.kinds())


@pytest.mark.parametrize("kind", samples.KINDS)
def test_a_value_of_every_kind_comes_back_as_it_was(kept, kind):
    value = samples.KINDS[kind]()
    ref = kept.put(value)
    back = kept.get(ref)
    assert type(back) is type(value)
    assert kept.put(back) == ref
    assert (ref.kind, ref.media_type, ref.rows) == (kind, value.media_type, value.rows())
    assert ref.size_bytes == kept.path(ref).stat().st_size


def test_the_reference_of_a_table_tells_its_columns(kept):
    ref = kept.put(samples.KINDS["table"]())
    assert [(c.name, c.type) for c in ref.schema] == [("x", "int64"), ("y", "string")]
    assert kept.get(ref).arrow.to_pydict() == {"x": [1, None], "y": ["a", "b"]}


def test_equal_content_is_stored_once(kept):
    refs = [kept.put(samples.report(1)) for _ in "abc"]
    assert refs[0] == refs[1] == refs[2]
    assert stored(kept) == [refs[0].digest]
    kept.put(samples.report(2))
    assert len(stored(kept)) == 2


def test_a_local_table_is_mapped_from_where_it_lies(local):
    ref = local.put(samples.KINDS["table"]())
    assert local.path(ref).as_uri() == ref.uri


def test_a_remote_blob_is_copied_here_once(remote, tmp_path):
    ref = remote.put(samples.report())
    assert remote.path(ref).is_relative_to(tmp_path / "copies")
    samples.spoil(ref, "missing")
    assert remote.get(ref).data == samples.report(0).data  # from the copy


def test_another_process_s_store_reads_what_was_put(remote, tmp_path):
    ref = remote.put(samples.report(3))
    other = store.Store(remote.uri, tmp_path / "elsewhere")
    assert other.get(ref).data == samples.report(3).data


def test_a_folder_may_have_a_space_in_its_name(tmp_path):
    home = tmp_path / "my data"
    kept = store.Store(home.as_uri(), tmp_path / "copies").make()
    ref = kept.put(samples.report())
    assert kept.path(ref).is_relative_to(home)
    assert kept.get(ref).data == samples.report().data


class Broken(values.Text):
    """A value whose writing fails half-way."""

    def save(self, path):
        path.write_bytes(b'{"numb')
        raise OSError(28, "No space left on device")


def test_a_write_that_fails_leaves_nothing_behind(kept):
    with pytest.raises(OSError, match="No space left"):
        kept.put(Broken(""))
    assert stored(kept) == []
    assert kept.sweep(time.time() + 1) == 0


DIES = """
import os, pathlib, signal, sys
from agent.artifacts import store
from stages import values

class Dies(values.Text):
    def save(self, path):
        path.write_bytes(b'{"numb')
        os.kill(os.getpid(), signal.SIGKILL)

store.Store(sys.argv[1], pathlib.Path(sys.argv[2])).put(Dies(""))
"""


def test_a_writer_that_is_killed_leaves_no_blob_and_its_rest_is_swept(local, tmp_path):
    command = [sys.executable, "-c", DIES, local.uri, str(tmp_path / "copies")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert stored(local) == []
    assert local.sweep(time.time() - 60) == 0  # somebody may be writing it
    assert local.sweep(time.time() + 1) == 1
    assert local.sweep(time.time() + 1) == 0


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_blob_is_found_when_it_is_read(kept, how):
    ref = kept.put(samples.report())
    samples.spoil(ref, how)
    expected = errors.ArtifactMissing if how == "missing" else errors.ArtifactCorrupt
    with pytest.raises(expected) as found:
        kept.get(ref)
    assert found.value.digest == ref.digest


@pytest.mark.parametrize("how", DAMAGE)
def test_a_blob_that_was_read_before_is_checked_again_once_it_has_changed(local, how):
    ref = local.put(samples.report())
    local.get(ref)
    samples.spoil(ref, how)
    with pytest.raises(errors.ArtifactError):
        local.get(ref)


@pytest.mark.parametrize("how", DAMAGE)
def test_putting_it_again_heals_a_damaged_blob(kept, how):
    ref = kept.put(samples.report())
    samples.spoil(ref, how)
    assert kept.put(samples.report()) == ref
    assert kept.get(ref).data == samples.report().data


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_blob_is_not_given_as_whole(kept, how):
    ref = kept.put(samples.report())
    assert kept.get(ref).data == samples.report().data
    assert kept.renew(ref)
    samples.spoil(ref, how)
    assert not kept.renew(ref)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_copy_of_a_remote_blob_is_fetched_again(remote, how):
    ref = remote.put(samples.report())
    copy = remote.path(ref)
    samples.spoil(msgspec.structs.replace(ref, uri=copy.as_uri()), how)
    assert remote.get(ref).data == samples.report(0).data
    assert files.digest(copy) == ref.digest


def test_what_is_used_again_counts_as_new(local):
    ref = local.put(samples.report())
    path = local.path(ref)
    for use in (lambda: local.renew(ref), lambda: local.put(samples.report())):
        samples.age(path, 3600)
        use()
        assert files.changed(path) > time.time() - 60
        assert local.get(ref).data == samples.report(0).data


def test_what_has_been_used_since_is_not_deleted(kept):
    ref = kept.put(samples.report())
    kept.delete(ref.digest, before=time.time() - 60)
    assert stored(kept) == [ref.digest]
    kept.delete(ref.digest, before=time.time() + 60)
    assert stored(kept) == []
    kept.delete(ref.digest)  # it is gone, which is all that was wanted
    with pytest.raises(errors.ArtifactMissing):
        kept.get(ref)


def elsewhere(ref, kept):
    """Give references that lead out of a store, by what is wrong with them."""
    name = ref.digest.removeprefix("sha256:")
    base = ref.uri.removesuffix(f"/{name[:2]}/{name}")
    return {
        "another store": {"uri": f"file:///srv/other/sha256/{name[:2]}/{name}"},
        "another place": {"uri": f"{base}/{name[:2]}/{'0' * 64}"},
        "a file of the system": {"uri": "file:///etc/passwd"},
        "another scheme": {"uri": f"http://169.254.169.254/sha256/{name[:2]}/{name}"},
        "another host": {"uri": ref.uri.replace("://", "://elsewhere", 1)},
        "dots in the uri": {"uri": f"{base}/../sha256/{name[:2]}/{name}"},
        "encoded dots": {"uri": f"{base}/%2e%2e/{name}"},
        "dots in the digest": {
            "digest": "sha256:../../../../etc/passwd",
            "uri": f"{kept.uri}/sha256/../../../../etc/passwd",
        },
        "a short digest": {"digest": "sha256:ab", "uri": f"{base}/ab/ab"},
        "no digest": {"digest": "", "uri": f"{kept.uri}/"},
        "a digest with an end of line": {"digest": f"{ref.digest}\n", "uri": f"{ref.uri}\n"},
        "a digest in capitals": {"digest": f"sha256:{name.upper()}"},
    }


@pytest.mark.parametrize("call", ["get", "path", "renew"])
def test_a_reference_that_leads_elsewhere_is_not_followed(kept, call):
    ref = kept.put(samples.report())
    for what, change in elsewhere(ref, kept).items():
        foreign = msgspec.structs.replace(ref, **change)
        with pytest.raises(errors.ForeignArtifact):
            pytest.fail(f"{what}: {getattr(kept, call)(foreign)}")


def test_equal_content_put_at_the_same_time_is_one_whole_blob(kept, tmp_path):
    count = 8
    stores = [kept, store.Store(kept.uri, tmp_path / "copies-2")]
    ready = threading.Barrier(count)

    def put(number):
        ready.wait()
        return stores[number % 2].put(values.Items(list(range(20_000))))

    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        refs = list(threads.map(put, range(count)))
    assert all(ref == refs[0] for ref in refs)
    assert stored(kept) == [refs[0].digest]
    assert kept.get(refs[0]).data == list(range(20_000))
    assert kept.sweep(time.time() + 1) == 0


def test_a_reader_sees_all_of_a_blob_or_nothing(local, tmp_path):
    other = store.Store(local.uri, tmp_path / "copies-2")
    value = values.Items(list(range(50_000)))
    ref = other.put(value)
    stop, looked = threading.Event(), threading.Event()

    def put():
        while not stop.is_set():
            other.delete(ref.digest)
            other.put(value)
            looked.clear()
            if not stop.is_set():
                looked.wait()  # once somebody has looked, it goes again

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        threads.submit(put)
        try:
            seen = []
            for _ in range(200):
                seen.append(length_of(local, ref))
                looked.set()
        finally:
            stop.set()
            looked.set()
    assert set(seen) <= {50_000, None}
    other.put(value)
    assert length_of(local, ref) == 50_000


def length_of(kept, ref):
    try:
        return len(kept.get(ref).data)
    except (errors.ArtifactMissing, FileNotFoundError):
        return None


def test_a_record_is_replaced_at_once_and_found_newest_first(kept):
    for name in ("a/one", "a/two", "b/three"):
        kept.write_record(name, b"1")
    kept.write_record("a/one", b"2")
    assert kept.read_record("a/one") == b"2"
    assert kept.read_record("a/four") is None
    names = [name for name, _ in kept.records("a")]
    assert sorted(names) == ["a/one", "a/two"]
    dates = [changed for _, changed in kept.records("a")]
    assert dates == sorted(dates, reverse=True)
    assert kept.records("c") == []
    kept.remove_record("a/one")
    kept.remove_record("a/one")
    assert kept.read_record("a/one") is None
    assert stored(kept) == []


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"mtime": 12.5}, 12.5),
        ({"LastModified": dt.datetime(1970, 1, 1, 0, 1, tzinfo=dt.UTC)}, 60.0),
        ({"updated": "1970-01-01T00:01:00Z", "created": 5.0}, 60.0),
    ],
)
def test_the_time_of_last_change_is_read_as_each_file_system_tells_it(told, expected):
    assert store._changed(told) == expected


def test_a_blob_of_unknown_age_counts_as_new():
    assert store._changed({"size": 1}) > time.time() - 60


def test_a_small_document_travels_in_its_reference_and_costs_no_file(kept):
    ref = kept.put(values.Report({"title": "ä"}))
    assert ref.uri.startswith("data:application/json;base64,")
    assert stored(kept) == []
    assert kept.renew(ref)
    assert kept.get(ref).data == {"title": "ä"}
    assert msgspec.json.decode(kept.path(ref).read_bytes()) == {"title": "ä"}


@pytest.mark.parametrize(
    "change",
    [
        {"uri": "data:application/json;base64,e30="},
        {"uri": "data:application/json;base64,?"},
        {"uri": "data:"},
        {"digest": f"sha256:{'0' * 64}"},
        {"size_bytes": 1},
    ],
)
def test_a_reference_whose_bytes_are_not_its_own_is_refused(kept, change):
    ref = msgspec.structs.replace(kept.put(values.Report({"title": "ä"})), **change)
    assert not kept.renew(ref)
    with pytest.raises(errors.ArtifactCorrupt):
        kept.get(ref)
    with pytest.raises(errors.ArtifactCorrupt):
        kept.path(ref)
