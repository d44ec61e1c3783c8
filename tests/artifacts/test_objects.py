"""Owns what every kind of store promises: a folder, memory, the bus's object store, S3."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import pathlib
import subprocess
import sys
import threading
import time
import uuid

import moto.server
import msgspec
import nats
import pyarrow as pa
import pytest

from agent import config, tasks
from agent.artifacts import bucket, cache, errors, files, garbage, objects, store
from agent.bus import streams
from agent.cli import session, tracing
from agent.execution import faults
from protocol import subjects
from stages import registry, values
from tests.artifacts import samples

ROOT = pathlib.Path(__file__).parents[2]
NAMES = subjects.Subjects()
KINDS = ["folder", "memory", "objects", "s3"]
LARGE = 3 * 2**20 + 17
"""More than is read of a bucket at once, and no whole number of chunks."""


@pytest.fixture(scope="module")
def s3():
    """Give the endpoint of an S3 of this process's own, and let fsspec know of it."""
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_uri(s3, monkeypatch):
    """Give the URI of a new bucket; the environment tells s3fs where S3 is, as it does anywhere."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL_S3": s3,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"models-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/mlpm"


@pytest.fixture
async def js(nats_url):
    client = await nats.connect(nats_url)
    yield client.jetstream()
    await client.close()


@pytest.fixture
async def on_bus(js, nats_url):
    """Give how to reach a bus that has the bucket."""
    await streams.keep(js, streams.bucket(NAMES, 1, None))
    return objects.Access(nats_url)


def open_bucket(access, folder):
    return store.Store(config.Settings(artifacts=ON_BUS).artifacts_uri, folder, access)


ON_BUS = config.Artifacts(uri=config.OBJECTS)


@pytest.fixture
def bus_store(on_bus, tmp_path):
    return open_bucket(on_bus, tmp_path / "copies")


@pytest.fixture(params=KINDS)
def kept(request, tmp_path):
    if request.param == "objects":
        return request.getfixturevalue("bus_store")
    uris = {
        "folder": (tmp_path / "store").as_uri,
        "memory": lambda: f"memory://{uuid.uuid4().hex}/store",
        "s3": lambda: request.getfixturevalue("s3_uri"),
    }
    return store.Store(uris[request.param](), tmp_path / "copies").make()


@pytest.fixture
def another(kept, request, tmp_path):
    """Give the same store as another machine sees it: with other copies."""
    access = request.getfixturevalue("on_bus") if is_on_bus(kept) else None
    return store.Store(kept.uri, tmp_path / "elsewhere", access)


def is_on_bus(kept):
    return kept.uri.startswith(config.OBJECTS)


def large():
    return values.Text("ä" * (LARGE // 2) + "!")


def spoil(kept, ref, how):
    """Damage a stored artifact."""
    place = kept._place(ref.digest)
    data = kept._fs.cat_file(place)
    match how:
        case "corrupted":
            kept._fs.pipe_file(place, bytes([data[0] ^ 1]) + data[1:])
        case "truncated":
            kept._fs.pipe_file(place, data[:-1])
        case "missing":
            kept._fs.rm_file(place)


def stored(kept):
    return sorted(digest for digest, _ in kept.digests())


@pytest.mark.parametrize("kind", samples.KINDS)
def test_what_one_puts_another_gets(kept, another, kind):
    value = samples.KINDS[kind]()
    ref = kept.put(value)
    back = another.get(ref)
    assert (type(back), back.media_type, ref.rows) == (type(value), value.media_type, value.rows())
    assert another.put(back) == ref
    assert kind in registry.kinds()


def test_a_large_blob_comes_back_as_it_was(kept, another):
    ref = kept.put(large())
    assert ref.size_bytes == LARGE
    assert another.get(ref).text == large().text
    assert files.digest(another.path(ref)) == ref.digest
    assert (kept.renew(ref), another.renew(ref), stored(kept)) == (True, True, [ref.digest])


def test_an_empty_file_is_a_file(kept, another):
    ref = kept.put(values.Text(""))
    assert another.get(ref).text == ""
    assert ref.size_bytes == 0


@pytest.mark.parametrize("how", ["corrupted", "truncated", "missing"])
def test_damage_is_found_when_it_is_read_and_mended_when_it_is_put_again(kept, another, how):
    ref = kept.put(samples.report())
    spoil(kept, ref, how)
    assert not kept.renew(ref)
    expected = errors.ArtifactMissing if how == "missing" else errors.ArtifactCorrupt
    with pytest.raises(expected):
        another.get(ref)
    assert kept.put(samples.report()) == ref
    assert another.get(ref).data == samples.report().data


def test_a_collection_deletes_what_nothing_refers_to(kept, another):
    by_run, by_cache, nobody = (kept.put(samples.report(n)) for n in range(3))
    cache.Cache(kept).remember("some.stage", "a", {"name": "a"}, {"out": by_cache}, {})
    assert garbage.collect(another, {by_run.digest}, 3600).deleted == 0  # all of it is young
    swept = garbage.collect(another, {by_run.digest}, 0)
    assert (swept.deleted, swept.kept, swept.records_dropped) == (1, 2, 0)
    assert stored(kept) == sorted([by_run.digest, by_cache.digest])
    assert cache.Cache(another).lookup("some.stage", "a").outputs == {"out": by_cache}
    with pytest.raises(errors.ArtifactMissing):
        another.get(nobody)


def test_records_are_listed_by_folder_newest_first_and_replaced_at_once(kept, another):
    for name in ("a/one", "ab/two", "a/three"):
        kept.write_record(name, b"1")
    kept.write_record("a/one", b"2")
    assert another.read_record("a/one") == b"2"
    assert another.read_record("a/none") is None
    names = [name for name, _ in another.records("a")]
    assert sorted(names) == ["a/one", "a/three"]
    another.remove_record("a/one")
    another.remove_record("a/one")
    assert kept.read_record("a/one") is None
    assert kept.records("none") == []


def test_equal_content_put_at_the_same_time_is_one_whole_blob(kept, another):
    ready = threading.Barrier(6)

    def put(number):
        ready.wait()
        return (kept, another)[number % 2].put(large())

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        refs = list(threads.map(put, range(6)))
    assert all(ref == refs[0] for ref in refs)
    assert stored(kept) == [refs[0].digest]
    assert another.get(refs[0]).text == large().text
    assert kept.sweep(time.time() + 60) == 0  # nothing is left of those that were replaced


# The bus's object store.


def test_a_table_on_the_bus_is_mapped_from_its_copy(bus_store, on_bus, tmp_path):
    value = values.Table(pa.table({"x": list(range(100_000))}))
    ref = bus_store.put(value)
    assert ref.uri.startswith("nats-objects://codeguardian_artifacts/sha256/")
    there = open_bucket(on_bus, tmp_path / "elsewhere")
    assert there.get(ref).arrow.equals(value.arrow)
    spoil(bus_store, ref, "missing")
    assert there.get(ref).arrow.equals(value.arrow)  # the copy is there, and whole


async def test_any_client_of_the_object_store_reads_what_is_stored(bus_store, js):
    ref = await asyncio.to_thread(bus_store.put, large())
    theirs = await js.object_store(NAMES.artifacts_bucket)
    name = f"sha256/{ref.digest[7:9]}/{ref.digest[7:]}"
    found = await theirs.get(name)
    assert f"sha256:{hashlib.sha256(found.data).hexdigest()}" == ref.digest
    assert [(one.name, one.size) for one in await theirs.list()] == [(name, ref.size_bytes)]
    await theirs.delete(name)
    assert await asyncio.to_thread(bus_store.renew, ref) is False
    assert await asyncio.to_thread(stored, bus_store) == []
    assert await asyncio.to_thread(bus_store.put, large()) == ref
    assert await asyncio.to_thread(stored, bus_store) == [ref.digest]


def test_what_a_writer_that_failed_had_written_is_gone(bus_store):
    def broken():
        yield b"x" * bucket.CHUNK_BYTES
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        bus_store._fs._write("sha256/ab/x", broken())
    assert stored(bus_store) == []
    assert bus_store.sweep(time.time() + 60) == 0


@pytest.mark.parametrize("data", [b"", b"{}", b'{"name": "x", "bucket": "b", "nuid": ">"}'])
async def test_a_description_that_cannot_be_read_is_none_and_harms_nothing(bus_store, js, data):
    ref = await asyncio.to_thread(bus_store.put, samples.report())
    other = await asyncio.to_thread(bus_store.put, samples.report(2))
    subject = bucket.Bucket(js._nc, NAMES.artifacts_bucket)._subject(
        f"sha256/{ref.digest[7:9]}/{ref.digest[7:]}"
    )
    await js.publish(subject, data, headers={"Nats-Rollup": "sub"})
    assert await asyncio.to_thread(stored, bus_store) == [other.digest]
    with pytest.raises(errors.ArtifactMissing):
        await asyncio.to_thread(bus_store.get, ref)
    assert await asyncio.to_thread(bus_store.put, samples.report()) == ref
    assert await asyncio.to_thread(stored, bus_store) == sorted([ref.digest, other.digest])
    assert (await asyncio.to_thread(bus_store.get, other)).data == samples.report(2).data


DIES = """
import os, signal, sys
from agent.artifacts import bucket, objects, store

fs, _ = objects.file_system(sys.argv[1], objects.Access(sys.argv[2]))
def pieces():
    yield b"x" * bucket.CHUNK_BYTES
    os.kill(os.getpid(), signal.SIGKILL)
fs._write("sha256/ab/x", pieces())
"""


def test_a_writer_that_is_killed_leaves_no_blob_and_its_rest_is_swept(bus_store, nats_url):
    command = [sys.executable, "-c", DIES, bus_store.uri, nats_url]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    whole = bus_store.put(samples.report())
    assert stored(bus_store) == [whole.digest]
    assert bus_store.sweep(time.time() - 60) == 0  # somebody may be writing it
    assert bus_store.sweep(time.time() + 60) == 1
    assert bus_store.sweep(time.time() + 60) == 0
    assert bus_store.get(whole).data == samples.report().data


async def test_a_blob_that_has_lost_a_chunk_is_found_out(bus_store, on_bus, js, tmp_path):
    ref = await asyncio.to_thread(bus_store.put, large())
    lost = await js.get_msg(NAMES.artifacts_stream, seq=2)
    assert ".C." in lost.subject
    await js.delete_msg(NAMES.artifacts_stream, 2)
    there = open_bucket(on_bus, tmp_path / "elsewhere")
    with pytest.raises(errors.ArtifactCorrupt):
        await asyncio.to_thread(there.get, ref)


def test_a_reader_sees_all_of_a_blob_or_nothing_while_it_is_replaced(bus_store, on_bus, tmp_path):
    ref = bus_store.put(large())
    name = f"sha256/{ref.digest[7:9]}/{ref.digest[7:]}"
    data = large().text.encode()
    stop = threading.Event()

    def rewrite():
        mine = open_bucket(on_bus, tmp_path / "mine")
        while not stop.is_set():
            mine._fs._write(name, bucket.pieces(data))

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        threads.submit(rewrite)
        try:
            read = [bus_store._fs.cat_file(f"{NAMES.artifacts_bucket}/{name}") for _ in range(10)]
        finally:
            stop.set()
    assert all(one == data for one in read)


async def test_a_full_bucket_says_so_and_is_no_fuller_than_before(js, nats_url, tmp_path):
    await streams.keep(js, streams.bucket(NAMES, 1, 2**20))
    kept = open_bucket(objects.Access(nats_url), tmp_path / "copies")
    small = await asyncio.to_thread(kept.put, samples.report())
    with pytest.raises(errors.StoreFull) as caught:
        await asyncio.to_thread(kept.put, large())
    problem = faults.problem_of(caught.value)
    assert (problem.code, problem.retryable) == ("unavailable", True)
    assert "is full" in problem.message
    assert "mlpm gc" in problem.hint
    assert await asyncio.to_thread(stored, kept) == [small.digest]
    state = (await js.stream_info(NAMES.artifacts_stream)).state
    assert state.messages == 2  # what describes the small one, and its chunk
    assert await asyncio.to_thread(kept.put, samples.report(2))


def test_a_bus_that_is_not_there_is_unavailable_and_asked_again(tmp_path):
    away = open_bucket(objects.Access("nats://127.0.0.1:1"), tmp_path / "copies")
    with pytest.raises(errors.StoreAway) as caught:
        away.put(samples.report())
    problem = faults.problem_of(caught.value)
    assert (problem.code, problem.retryable) == ("unavailable", True)
    assert "codeguardian_artifacts cannot be reached" in problem.message


def test_a_bucket_that_is_not_there_is_unavailable(nats_url, tmp_path):
    kept = open_bucket(objects.Access(nats_url), tmp_path / "copies")
    for ask in (lambda: kept.put(samples.report()), lambda: kept.read_record("a/b")):
        with pytest.raises(errors.StoreAway):
            ask()


async def test_a_connection_that_is_lost_is_made_again(embedded, bus_store):
    ref = await asyncio.to_thread(bus_store.put, samples.report())
    embedded._process.kill()
    await embedded._process.wait()
    with pytest.raises(errors.StoreAway):
        await asyncio.to_thread(bus_store.renew, ref)
    keeping = asyncio.create_task(embedded.keep())
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(errors.StoreAway):
                assert await asyncio.to_thread(bus_store.renew, ref)
                break
    assert (await asyncio.to_thread(bus_store.get, ref)).data == samples.report().data
    await tasks.end(keeping)


def test_one_connection_serves_all_threads_of_a_process_and_ends_with_its_store(bus_store):
    before = bus_store.put(samples.report())
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: bus_store.renew(before), range(64)))
    line = bus_store._fs._line
    nc = line._nc
    assert nc.is_connected
    del bus_store._fs
    deadline = time.monotonic() + 10
    while not (nc.is_closed and line._loop.is_closed()):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("uri", ["nats-objects:", "nats-objects://", "nats-objects://a.b/c"])
def test_a_uri_that_names_no_bucket_is_refused(uri, tmp_path):
    with pytest.raises(errors.NoSuchStore):
        store.Store(uri, tmp_path, objects.Access("nats://127.0.0.1:1"))


def test_a_store_on_the_bus_takes_a_bus(tmp_path):
    with pytest.raises(errors.NoSuchStore):
        store.Store("nats-objects://codeguardian_artifacts", tmp_path)


def test_the_program_opens_the_store_of_the_bus_that_it_finds(bus_store, nats_url, tmp_path):
    ref = bus_store.put(samples.report())
    chosen = (f"artifacts.uri={config.OBJECTS}", f"data_dir={tmp_path / 'data'}")
    here = session.Session(session.Options(url=nats_url, overrides=chosen))
    assert garbage.collect(tracing.open_store(here), {ref.digest}, 0).kept == 1


def test_no_key_is_in_a_reference(on_bus, nats_url, tmp_path):
    token = nats_url.partition("//")[2].partition("@")[0]
    assert token
    ref = open_bucket(on_bus, tmp_path / "copies").put(samples.report())
    assert token not in msgspec.json.encode(ref).decode()


def test_the_settings_name_the_bucket_after_the_prefix():
    chosen = config.Settings(nats=config.Nats(prefix="our.team"), artifacts=ON_BUS)
    assert chosen.artifacts_uri == "nats-objects://our_team_artifacts"
    with pytest.raises(config.BadValue):
        config.Artifacts(uri="nats-objects://another")
