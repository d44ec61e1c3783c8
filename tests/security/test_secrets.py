"""A secret is kept where it is referred to, and comes up nowhere else."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import pathlib
import shutil
import sys
import threading
from urllib import parse

import msgspec
import nats
import pytest
import pytest_asyncio

from agent import address, children, config
from protocol import accounts, client, permissions
from stages import kit, secrets
from stages.ingest import connections, jetstream, stream
from tests.execution.conftest import ray_cluster
from tests.security import locked, test_audit, test_connections, test_loaders
from tests.service import helpers
from tests.service.helpers import stage
from tests.stages import web

__all__ = ["ray_cluster"]

READY_S = 60.0
BUCKET = "codeguardian_secrets"
ENV, FILE, KEY = "env-Zq7xT4vB9mLw", "file-Hc2nR8kYp5Jd", "key-Wf6sV3gN1aXe"


def in_thread(function, *arguments):
    """Read as a stage does, on a thread without a loop."""
    return asyncio.to_thread(function, *arguments)


@pytest.fixture
async def bucket(nats_url):
    connection = await nats.connect(nats_url)
    made = await connection.jetstream().create_key_value(bucket=BUCKET, history=5)
    yield made
    await connection.close()


def services(url, *allowed):
    return kit.Services(nats_url=url, secrets_bucket=BUCKET, secrets=allowed or ("kv:*",))


async def test_a_secret_is_read_from_the_bucket_as_it_is_now(bucket, nats_url):
    reference = secrets.Secret(kv="shop.password")
    for hush in (KEY, "changed"):
        await bucket.put("shop.password", f"{hush}\n".encode())
        assert await in_thread(reference.read, services(nats_url)) == hush


async def test_a_key_that_is_deleted_or_never_was_is_missing(bucket, nats_url):
    await bucket.put("gone", b"hush")
    await bucket.delete("gone")
    for key in ("gone", "never"):
        with pytest.raises(secrets.NoSecret, match=f"the key {key} of the bucket {BUCKET}"):
            await in_thread(secrets.Secret(kv=key).read, services(nats_url))


async def test_only_keys_that_the_configuration_names_are_read(bucket, nats_url):
    await bucket.put("shop.password", KEY.encode())
    for allowed in ("kv:other.*", "shop.*", "MLPM_SECRET_*", "KV:*"):
        with pytest.raises(secrets.SecretRefused) as refused:
            await in_thread(
                secrets.Secret(kv="shop.password").read, services(nats_url, allowed), "$.password"
            )
        assert (refused.value.code, refused.value.path) == ("not_allowed", "$.password")
    found = secrets.Secret(kv="shop.password").read
    assert await in_thread(found, services(nats_url, "kv:shop.*")) == KEY


@pytest.mark.parametrize("key", ["", "*", ">", "a.*", "a.>", ".a", "a.", "a b", "a\n", "a..b"])
def test_a_key_is_one_key(key):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kv": key}, secrets.Secret)


@pytest.mark.parametrize("data", [{"kv": "a", "env": "b"}, {"kv": "a", "file": "b"}])
def test_a_reference_names_one_place(data):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, secrets.Secret)


async def test_on_a_locked_bus_only_who_may_read_the_bucket_reads_it(tmp_path):
    keys = locked.make_keys(tmp_path)
    extras = permissions.Extras(secrets=True)
    reads = permissions.role("worker", locked.NAMES, extras=extras)
    seed = tmp_path / "reader.nk"
    # A bucket is the operator's to make: here an agent's key stands in for that of its owner.
    owner = accounts.User(
        msgspec.structs.replace(
            permissions.role("agent", locked.NAMES),
            publish=(">",),
            subscribe=(">",),
        ),
        locked.make_seed(tmp_path / "owner.nk"),
    )
    reader = accounts.User(reads, locked.make_seed(seed))
    text = accounts.configuration([*keys.users, owner, reader])
    async with locked.serving(tmp_path / "bus", text) as url:
        connection = await nats.connect(url, nkeys_seed=str(tmp_path / "owner.nk"))
        made = await connection.jetstream().create_key_value(bucket=BUCKET)
        await made.put("api", KEY.encode())
        await connection.close()

        def read(key):
            able = msgspec.structs.replace(services(url), nats_nkey_seed=str(key))
            return secrets.Secret(kv="api").read(able, "$.password")

        assert await in_thread(read, seed) == KEY
        with pytest.raises(kit.StageFault) as refused:
            await in_thread(read, keys.seeds["worker"])
        assert refused.value.path == "$.password"


@pytest.mark.parametrize(
    "asked", [{"stream": f"KV_{BUCKET}", "subject": ">"}, {"subject": f"$KV.{BUCKET}.>"}]
)
async def test_the_bucket_is_not_read_as_a_stream_of_data(bucket, nats_url, tmp_path, asked):
    await bucket.put("api", json.dumps({"key": KEY}).encode())
    reading = stream.Stream(**asked)
    context = kit.Context(workdir=tmp_path, services=services(nats_url, "kv:other"))
    for tried in (reading.run, reading.fingerprint):
        with pytest.raises(jetstream.SecretStream) as refused:
            await in_thread(tried, context)
        assert (refused.value.code, refused.value.path) == ("not_allowed", "$.stream")


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return test_connections.Papers(tmp_path_factory.mktemp("papers"))


@contextlib.asynccontextmanager
async def in_the_clear():
    """Run what answers as a server without TLS does; give its port, and all that it is told."""
    told = bytearray()
    hello = {"server_id": "x", "version": "2.11.0", "auth_required": True, "max_payload": 2**20}

    async def answer(reader, writer):
        writer.write(b"INFO " + json.dumps(hello).encode() + b"\r\n")
        while line := await reader.readline():
            told.extend(line)
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1], told


@pytest.mark.parametrize(("scheme", "trust"), [("nats", True), ("tls", True), ("tls", False)])
async def test_no_password_goes_to_a_bus_that_does_not_ask_for_tls(papers, scheme, trust):
    async with in_the_clear() as (port, told):
        able = kit.Services(
            nats_url=f"{scheme}://ada:{KEY}@127.0.0.1:{port}",
            nats_tls_ca=papers.ca if trust else None,
            secrets_bucket=BUCKET,
            secrets=("kv:*",),
        )
        with pytest.raises(jetstream.Away, match="does not ask for TLS") as away:
            await in_thread(secrets.Secret(kv="api").read, able)
    assert (bytes(told), KEY in str(away.value)) == (b"", False)


async def test_a_worker_gets_in_by_tls_with_its_own_certificate(papers, tmp_path):
    text = papers.tls(verify=True) + 'authorization { user: "ada", password: "x" }'
    certificate, key = papers.client
    async with locked.serving(tmp_path / "nats", text) as url:
        able = kit.Services(
            nats_url=url.replace("//", "//ada:x@"),
            nats_tls_ca=papers.ca,
            nats_tls_cert=certificate,
            nats_tls_key=key,
        )
        async with jetstream.connected(able) as reader:
            with pytest.raises(jetstream.NoStream):
                await reader.find("nothing", None)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
async def test_a_key_that_everybody_can_get_at_is_not_used(papers, tmp_path, mode):
    seed, key = tmp_path / "worker.nk", tmp_path / "worker.key"
    locked.make_seed(seed, mode)
    certificate, own = papers.client
    shutil.copyfile(own, key)
    key.chmod(mode)
    for exposed in (
        {"nats_nkey_seed": str(seed)},
        {"nats_credentials": str(seed)},
        {"nats_tls_cert": certificate, "nats_tls_key": str(key)},
    ):
        able = msgspec.structs.replace(services("nats://127.0.0.1:1"), **exposed)
        with pytest.raises(connections.KeyExposed, match=f"mode {mode:04o}"):
            await in_thread(secrets.Secret(kv="api").read, able)


def test_without_a_bus_there_is_no_secret_and_one_that_is_away_may_come_back():
    with pytest.raises(secrets.NoSecret):
        secrets.Secret(kv="a").read(services(""))
    with pytest.raises(jetstream.Away) as away:
        secrets.Secret(kv="a").read(services("nats://127.0.0.1:1"), "$.auth.secret")
    assert (away.value.retryable, away.value.path) == (True, "$.auth.secret")


def test_the_bucket_is_named_after_the_prefix():
    settings = config.Settings(nats=config.Nats(prefix="team.a"))
    assert settings.services("").secrets_bucket == "team_a_secrets"


def forms(secret):
    """Give the ways in which a secret may stand in bytes."""
    raw = secret.encode()
    packed = [base64.b64encode(b"x" * place + raw)[4:-4] for place in range(3)]
    return [raw, binascii.hexlify(raw), parse.quote(secret).encode(), *packed]


def leaks(name, data):
    return [(name, each) for each in (ENV, FILE, KEY) if any(form in data for form in forms(each))]


@pytest.fixture
def served():
    """Give an API that knows the three secrets, and sends back what it was sent."""
    with web.serving() as api:
        rows = [{"a": float(number), "b": 2.0 * number} for number in range(20)]
        seen = api.seen

        def told(asked):
            hush = asked.headers.get("authorization", "").removeprefix("Bearer ")
            return web.Reply(rows if hush in (ENV, FILE, KEY) else b"", 200)

        def echo(asked):
            hush = asked.headers["authorization"]
            return web.Reply(hush.encode(), 200, {"content-type": f"text/{hush}"})

        def on(asked):
            hush = parse.quote(asked.headers["authorization"])
            return web.Reply(hush.encode(), 302, {"location": f"http://127.0.0.2/{hush}"})

        api.routes |= {"/rows": told, "/echo": echo, "/on": on}
        assert threading.current_thread() is threading.main_thread()
        yield api
        assert {ENV, FILE, KEY} <= {
            one.headers.get("authorization", "").removeprefix("Bearer ") for one in seen
        }


@pytest_asyncio.fixture(loop_scope="session")
async def started(ray_cluster, tmp_path):
    """Give the data folder of an agent of its own process, whose workers know a secret."""
    folder, log = tmp_path / "agent", tmp_path / "agent.log"
    kept = tmp_path / "kept"
    kept.write_text(FILE)
    command = [sys.executable, "-m", "agent", "up", "--stages", "tests.security.sample_stages"]
    for setting in (
        f"data_dir={folder}",
        f"ray.address={ray_cluster.address}",
        "ray.workers=1",
        "specialist.embedded=false",
        "access.allowed_hosts=127.0.0.1",
        f"access.secrets=MLPM_SECRET_*,kv:*,{kept}",
        "logs.format=json",
        "logs.level=debug",
    ):
        command += ["--set", setting]
    process = await children.start(command, log, {**os.environ, "MLPM_SECRET_API": ENV})
    try:
        async with asyncio.timeout(READY_S):
            while not (folder / address.FILE).exists():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield folder
    finally:
        await children.stop(process)


def asking(name, place, path, served, **more):
    told = {"uri": served.url(path), "attempts": 1, "auth": {"secret": place}}
    return stage(name, "ingest.http", told, retry={"max_attempts": 1}, **more)


def work(served, kept):
    places = {"env": {"env": "MLPM_SECRET_API"}, "file": {"file": kept}, "kv": {"kv": "api"}}
    skipped = {"on_failure": "skip", "placement": "agent"}
    return [
        asking("good", places["kv"], "/rows", served),
        *(asking(f"in-{each}", places[each], "/rows", served, **skipped) for each in places),
        *(asking(f"echo-{each}", places[each], "/echo", served, **skipped) for each in places),
        *(asking(f"on-{each}", places[each], "/on", served, **skipped) for each in places),
        stage("fit", "security.fit", {"target": "b"}, inputs={"table": "good.table"}),
        stage("keep", "register.model", {"name": "line"}, inputs={"model": "fit"}),
    ]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.xdist_group("service")
async def test_secrets_come_up_in_nothing_that_a_run_leaves_behind(started, served, tmp_path):
    where = address.read(started)
    bus = await nats.connect(where.nats_url)
    bucket = await bus.jetstream().create_key_value(bucket=BUCKET)
    await bucket.put("api", KEY.encode())
    heard = []

    async def hear(message):
        heard.append(repr(message.headers).encode() + message.data)

    await bus.subscribe("codeguardian.>", cb=hear)
    async with client.connect(where.nats_url) as ask:
        status, told = await helpers.done(ask, *work(served, str(tmp_path / "kept")))
        by_id = helpers.by_id(status)
        assert status.state == "succeeded", status
        assert by_id["keep"].state == "succeeded"
        assert [by_id[f"in-{each}"].state for each in ("env", "file", "kv")] == ["succeeded"] * 3
        raw, _ = await helpers.commits(ask, status.run_id)
    await bus.close()
    assert heard
    assert told
    found = [leak for data in (*raw, *heard, *decoded(raw)) for leak in leaks("journal", data)]
    for path in [*files(started), tmp_path / "agent.log"]:
        with contextlib.suppress(FileNotFoundError):  # the server drops what a queue has done with
            found += leaks(str(path), path.read_bytes())
    assert not found
    test_loaders.require_no_pickle(started / "mlflow-artifacts")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.xdist_group("service")
async def test_a_running_agent_passes_the_audit_but_for_a_secret_in_a_request(started, tmp_path):
    async def found():
        flags = ("--set", f"data_dir={started}", "--set", f"access.data_roots={tmp_path}")
        code, out, errors = await test_audit.mlpm(
            "audit", "--json", "--advisories", "", *flags, cwd=tmp_path
        )
        assert code in {0, 1}, errors
        return code, [(one["rule"], one["where"]) for one in json.loads(out)["findings"]]

    code, listed = await found()
    ours = [one for one in listed if not one[0].startswith(("access/", "ray/exposed-port"))]
    assert ours == []
    async with client.connect(address.read(started).nats_url) as ask:
        hush = {"uri": "http://127.0.0.1:1/", "params": {"api_key": KEY}, "attempts": 1}
        status, _ = await helpers.done(ask, stage("s", "ingest.http", hush))
    code, listed = await found()
    assert code == 1
    where = f"{status.run_id} $.stages[0].with.params.api_key"
    assert ("pipeline/secret", where) in listed


def decoded(commits):
    """Give the documents that travel in references."""
    for data in commits:
        for part in data.split(b";base64,")[1:]:
            with contextlib.suppress(binascii.Error):
                yield base64.b64decode(part.partition(b'"')[0])


def files(folder: pathlib.Path):
    """Give what the agent has written, the bucket of secrets apart."""
    found = [path for path in folder.rglob("*") if path.is_file() and BUCKET not in str(path)]
    names = {path.name for path in found}
    assert "mlflow.db" in names
    assert any("jetstream" in str(path) for path in found)
    assert any("sha256" in str(path) for path in found)
    return found
