"""What a stage may reach, tried by whoever wants it to reach more."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import sqlite3
import threading

import fsspec
import pytest

from agent import config
from agent.artifacts import errors, store
from protocol import artifacts
from stages import hosts, kit, sources, values
from stages.ingest import databases, sql
from tests.security import names
from tests.stages import web

GOOD, EVIL = "127.0.0.2", "127.0.0.1"
"""Two addresses of this machine, each with a server on the same port."""
NAME = "rebind.test"
METADATA = "169.254.169.254"


@pytest.fixture
def root(tmp_path):
    for folder in ("data/inner", "data-of-others", "work"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "sales.csv").write_text("a,b\n1,2\n")
    (tmp_path / "data-of-others" / "hidden.csv").write_text("a,b\nhidden,2\n")
    return tmp_path


@pytest.fixture
def dns():
    with names.serving() as server:
        yield server


@pytest.fixture
def served():
    with web.serving() as running:
        yield running


@pytest.fixture
def good(served):
    """Give what was asked at the other address of the same port."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            seen.append(self.headers["host"])
            self.send_response(200)
            self.send_header("content-length", "4")
            self.end_headers()
            self.wfile.write(b"good")

    with http.server.ThreadingHTTPServer((GOOD, served.port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield seen
        server.shutdown()
        thread.join()


def services_of(root, **settings):
    return kit.Services(**{"data_roots": (str(root / "data"),)} | settings)


def context_of(root, **settings):
    return kit.Context(workdir=root / "work", services=services_of(root, **settings))


@pytest.mark.parametrize(
    "uri",
    [
        "../data-of-others/hidden.csv",  # its folder begins as the root's does
        "{root}/data-of-others/hidden.csv",
        "{root}/data/../data-of-others/hidden.csv",
        "file:..%2fdata-of-others%2fhidden.csv",
        "file:%2e%2e%2Fdata-of-others/hidden.csv",
        "file:///{root}/data/%2e%2e/data-of-others/hidden.csv",
        "FILE:{root}/data-of-others/hidden.csv",
        "file://127.0.0.1{root}/data-of-others/hidden.csv",
        "file://evil.test/share/hidden.csv",
        "file:////evil.test/share/hidden.csv",
        "//evil.test/share/hidden.csv",
        "/proc/self/environ",
        "/proc/self/cwd",
        "/dev/stdin",
        "inner/up/data-of-others/hidden.csv",
        "inner/there.csv",
        "inner/chain.csv",
        "inner/sidelong.csv",
    ],
)
def test_no_way_leads_out_of_a_root(root, uri):
    inner = root / "data" / "inner"
    (inner / "up").symlink_to(root)
    (inner / "there.csv").symlink_to("../../data-of-others/hidden.csv")
    (inner / "second.csv").symlink_to(root / "data-of-others" / "hidden.csv")
    (inner / "chain.csv").symlink_to("second.csv")
    (inner / "sidelong.csv").symlink_to("up/data-of-others/hidden.csv")
    with pytest.raises((sources.OutsideRoots, sources.Missing)) as refused:
        sources.fetch(uri.format(root=root), context_of(root))
    assert isinstance(refused.value, sources.OutsideRoots)


@pytest.mark.parametrize(
    "uri",
    [
        r"\\evil.test\share\hidden.csv",
        r"..\data-of-others\hidden.csv",
        "file:%252e%252e/data-of-others/hidden.csv",
        "..%2fdata-of-others/hidden.csv",
        "....//data-of-others/hidden.csv",
    ],
)
def test_what_other_systems_take_for_a_way_is_a_name_within_the_root(root, uri):
    with pytest.raises(sources.Missing):
        sources.fetch(uri, context_of(root))


def test_a_root_that_is_a_link_is_where_it_leads(root):
    (root / "link").symlink_to(root / "data")
    context = context_of(root, data_roots=(str(root / "link"),))
    assert sources.fetch("sales.csv", context) == root / "data" / "sales.csv"
    with pytest.raises(sources.OutsideRoots):
        sources.fetch("../data-of-others/hidden.csv", context)


def test_what_is_closed_is_refused_within_the_roots(root):
    own, seed = root / "data" / ".mlpm", root / "data" / "agent.seed"
    (own / "demo").mkdir(parents=True)
    for path in (own / "agent.json", own / "demo" / "x.csv", seed):
        path.write_text("hidden")
    (root / "data" / "innocent.csv").symlink_to(seed)
    closed = services_of(root, closed=(str(own), str(seed)))
    for uri in (".mlpm/agent.json", ".mlpm/demo/x.csv", "agent.seed", "innocent.csv", ".mlpm"):
        with pytest.raises(sources.OutsideRoots):
            sources.local_path(uri, closed)
    with pytest.raises(sources.OutsideRoots):
        sources.expand("*.seed", closed)
    assert sources.local_path("sales.csv", closed).name == "sales.csv"
    roots = (str(root / "data"), str(own / "demo"))
    opened = services_of(root, closed=(str(own), str(seed)), data_roots=roots)
    assert sources.local_path(".mlpm/demo/x.csv", opened).name == "x.csv"
    with pytest.raises(sources.OutsideRoots):
        sources.local_path(".mlpm/agent.json", opened)


def test_the_agent_closes_its_data_folder_and_its_secret_files(root):
    seed = root / "data" / "agent.seed"
    settings = config.Settings(
        data_dir=str(root / "data" / ".mlpm"),
        nats=config.Nats(nkey_seed=str(seed)),
        access=config.Access(data_roots=(str(root / "data"),)),
    )
    services = settings.services("nats://127.0.0.1:1")
    for uri in (".mlpm/agent.json", "agent.seed"):
        with pytest.raises(sources.OutsideRoots):
            sources.local_path(uri, services)
    assert sources.local_path(".mlpm/demo/series.csv", services)


CHAINS = (
    "simplecache::file://{root}/data-of-others/hidden.csv",
    "filecache::file://{root}/data-of-others/hidden.csv",
    "zip://hidden.csv::file://{root}/data-of-others/hidden.zip",
    "tar://hidden.csv::file://{root}/data-of-others/hidden.tar",
    "dir://data-of-others::file://{root}",
    "s3::file://{root}/data-of-others/hidden.csv",
    "https://127.0.0.1/x::file://{root}/data-of-others/hidden.csv",
    "memory://x::file://{root}/data-of-others/hidden.csv",
    "local://{root}/data-of-others/hidden.csv",
    "local:{root}/data-of-others/hidden.csv",
    "reference://{root}/data-of-others/hidden.csv",
)


@pytest.mark.parametrize("uri", CHAINS)
def test_no_other_file_system_reads_local_files(root, uri):
    everything = tuple(fsspec.available_protocols())
    for schemes in (kit.DEFAULT_SERVICES.allowed_schemes, everything):
        context = context_of(root, allowed_schemes=schemes)
        with pytest.raises(kit.StageFault) as refused:
            sources.fetch(uri.format(root=root), context)
        assert "hidden,2" not in str(refused.value)
        assert not any(path.read_bytes() for path in (root / "work").iterdir())


@pytest.mark.parametrize("scheme", ["ftp", "sftp", "smb", "webhdfs", "hdfs"])
def test_a_file_system_of_its_own_reaches_only_hosts_that_are_named(root, scheme):
    for host, listed in (("files.test", ()), (METADATA, ()), (METADATA, (METADATA,))):
        context = context_of(root, allowed_schemes=(scheme,), allowed_hosts=listed)
        with pytest.raises(hosts.HostRefused):
            sources.fetch(f"{scheme}://{host}/x.csv", context)
        with pytest.raises(hosts.HostRefused):
            sources.digest(f"{scheme}://{host}/x.csv", context.services)


ELSEWHERE = (
    *("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    *("2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.16689662"),
    *("[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::169.254.169.254]"),
    *("[64:ff9b:1::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[fd00:ec2::254]", "[fd00:ec2::23]"),
    *("[fd20:ce::254]", "[fe80::1]", "[0:0:0:0:0:ffff:a9fe:a9fe]"),
    *("metadata.google.internal", "METADATA.google.internal.", "metadata.goog"),
)
NOBODY = ("0.0.0.0", "0", "0x0", "[::]", "[::ffff:0.0.0.0]", "255.255.255.255", "[ff02::1]")
PRIVATE = (
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "127.0.0.1."),
    *("localhost", "LOCALHOST", "localhost.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "[fc00::1]", "[2002:7f00:1::]"),
    *("[64:ff9b::7f00:1]", "user@127.0.0.1", "example.org@127.0.0.1", "example.org:80@127.0.0.1"),
)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_metadata_is_out_of_reach_in_every_notation_even_where_it_is_named(root, host):
    for listed in ((), (host.strip("[]"),), (host,)):
        context = context_of(root, allowed_hosts=listed)
        with pytest.raises(hosts.HostRefused, match=r"metadata|not among the allowed"):
            hosts.check_url(f"http://{host}/latest", context.services)
        with pytest.raises((kit.NotAllowed, kit.DataFault)):
            sources.fetch(f"http://{host}/latest", context)


@pytest.mark.parametrize("host", NOBODY)
def test_addresses_of_nobody_are_out_of_reach(root, host):
    for listed in ((), (host.strip("[]"),)):
        with pytest.raises(hosts.HostRefused, match="not a host's"):
            sources.fetch(f"http://{host}/", context_of(root, allowed_hosts=listed))


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_out_of_reach_in_every_notation(root, served, host):
    where = f"{host}:{served.port}"
    with pytest.raises((hosts.HostRefused, hosts.HostUnknown)):
        hosts.check_url(f"http://{where}/", services_of(root))
    with pytest.raises(kit.StageFault):
        sources.fetch(f"http://{where}/", context_of(root))
    assert served.seen == []


@pytest.mark.parametrize(
    "uri",
    [
        "http://listed.test@127.0.0.1:{port}/",
        "http://listed.test:80@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}#@listed.test/",
        "http://127.0.0.1:{port}?@listed.test/",
        "http://127.0.0.1:{port}\\@listed.test/",
        "http://listed.test\\@127.0.0.1:{port}/",
        "http://listed.test%40127.0.0.1:{port}/",
        "http://listed.test%2f@127.0.0.1:{port}/",
        "http:///127.0.0.1:{port}/",
        "http:127.0.0.1:{port}/",
        "http://①②⑦.0.0.1:{port}/",
        "http://127。0。0。1:{port}/",
        "http://127.0.0.1\t:{port}/",
        " http://127.0.0.1:{port}/",
    ],
)
def test_no_way_of_writing_a_url_leads_to_a_host_that_is_not_named(root, served, uri):
    context = context_of(root, allowed_hosts=("listed.test",))
    with pytest.raises(kit.StageFault):
        sources.fetch(uri.format(port=served.port), context)
    assert served.seen == []


def test_a_name_that_answers_otherwise_the_second_time_is_asked_once(root, served, good, dns):
    served.routes["/x"] = web.Reply(b"evil")
    dns.answers[NAME] = [[GOOD], [EVIL]]
    services = services_of(root, allowed_hosts=(NAME,))
    with hosts.client(services, dns.look_up) as client:
        answer = client.get(f"http://{NAME}:{served.port}/x")
    assert answer.content == b"good"
    assert good == [f"{NAME}:{served.port}"]
    assert dns.asked == [NAME]
    assert served.seen == []


def test_a_name_is_judged_anew_for_every_request(root, served, good, dns):
    dns.answers[NAME] = [[GOOD], [METADATA]]
    services = services_of(root, allowed_hosts=(NAME,))
    with hosts.client(services, dns.look_up) as client:
        client.get(f"http://{NAME}:{served.port}/x")
        with pytest.raises(hosts.HostRefused, match="metadata"):
            client.get(f"http://{NAME}:{served.port}/x")
    assert len(good) == 1


@pytest.mark.parametrize(
    "answer",
    [[EVIL], ["93.184.216.34", EVIL], [EVIL, "93.184.216.34"], ["::1"], ["93.184.216.34", "::1"]],
)
def test_one_private_answer_refuses_a_name_that_is_not_named(root, served, dns, answer):
    dns.answers["evil.test"] = [answer]
    with hosts.client(services_of(root), dns.look_up) as client, pytest.raises(hosts.HostRefused):
        client.get(f"http://evil.test:{served.port}/x")
    assert served.seen == []


@pytest.mark.parametrize("answer", [METADATA, "::ffff:169.254.169.254", "fd00:ec2::254"])
def test_a_named_host_that_answers_with_metadata_is_refused(root, dns, answer):
    dns.answers[NAME] = [[answer]]
    with pytest.raises(hosts.HostRefused, match="metadata"):
        hosts.check(NAME, services_of(root, allowed_hosts=(NAME,)), dns.look_up)


def test_every_hop_of_a_redirect_is_looked_up_and_judged(root, served, dns):
    dns.answers[NAME], dns.answers["evil.test"] = [[EVIL]], [[METADATA]]
    hops = {"/1": f"http://{NAME}:{served.port}/2", "/2": "http://evil.test/latest"}
    for path, to in hops.items():
        served.routes[path] = web.Reply(status=302, headers={"location": to})
    services = services_of(root, allowed_hosts=(NAME, "evil.test"))
    with hosts.client(services, dns.look_up) as client, pytest.raises(hosts.HostRefused):
        client.get(f"http://{NAME}:{served.port}/1")
    assert [seen.path for seen in served.seen] == ["/1", "/2"]
    assert dns.asked == [NAME, NAME, "evil.test"]


def test_a_name_without_an_address_is_unknown(root, dns):
    with pytest.raises(hosts.HostUnknown):
        hosts.check("nowhere.test", services_of(root), dns.look_up)
    dns.answers["empty.test"] = [[]]
    with pytest.raises(hosts.HostUnknown):
        hosts.check("empty.test", services_of(root), dns.look_up)


@pytest.fixture
def shops(root):
    for folder in ("data", "data-of-others"):
        with contextlib.closing(sqlite3.connect(root / folder / "shop.db")) as made:
            made.execute("CREATE TABLE t (who TEXT)")
            made.execute("INSERT INTO t VALUES (?)", (folder,))
            made.commit()
    return root


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///../data-of-others/shop.db",
        "sqlite:///{root}/data-of-others/shop.db",
        "sqlite:///shop.db?uri=true",
        "sqlite:///file:{root}/data-of-others/shop.db?uri=true",
        "sqlite:///file:shop.db?mode=rwc&uri=true",
        "sqlite:///shop.db?vfs=unix-none",
        "sqlite://127.0.0.1/shop.db",
        "sqlite:///:memory:",
        "sqlite://",
        "sqlite+pysqlite:///../data-of-others/shop.db",
        "adbc+sqlite:../data-of-others/shop.db",
        "adbc+sqlite:file:{root}/data-of-others/shop.db",
        "adbc+/tmp/evil.so:shop.db",
        "postgresql:///shop?host=/var/run",
        "postgresql://evil.test/shop?hostaddr=127.0.0.1",
        "postgresql://user@%2Fvar%2Frun/shop",
        "postgresql://169.254.169.254/shop",
        "mysql://[::1]/shop",
        "duckdb:///shop.db",
    ],
)
def test_no_url_of_a_database_leads_out(shops, url):
    with pytest.raises((kit.NotAllowed, kit.DataFault, kit.Transient)):
        databases.place(url.format(root=shops), None, services_of(shops))


@pytest.mark.parametrize("url", ["sqlite:///shop.db", "adbc+sqlite:shop.db"])
@pytest.mark.parametrize(
    "query",
    [
        "ATTACH '{other}' AS o",
        "SELECT * FROM t; ATTACH '{other}' AS o; SELECT * FROM o.t",
        "WITH x AS (SELECT 1) ATTACH '{other}' AS o",
        "SELECT load_extension('/tmp/evil.so')",
        "SELECT readfile('{other}')",
        "SELECT writefile('{other}', 'x')",
        "SELECT * FROM pragma_database_list, (SELECT * FROM o.t)",
        "PRAGMA writable_schema = 1",
        "VACUUM INTO '{other}.copy'",
        "SELECT * FROM '{other}'.t",
    ],
)
def test_no_query_reads_another_file(shops, url, query):
    other = shops / "data-of-others" / "shop.db"
    stage = sql.Sql(url=url, query=query.format(other=other))
    with pytest.raises((kit.NotAllowed, kit.DataFault)) as refused:
        stage.run(context_of(shops))
    assert "data-of-others'" not in str(refused.value)
    assert not other.with_name("shop.db.copy").exists()


def test_a_link_that_is_exchanged_after_the_check_is_not_followed(root):
    path = sources.local_path("sales.csv", services_of(root))
    (root / "data" / "was.csv").symlink_to(root / "data" / "sales.csv")
    real = sources.local_path("was.csv", services_of(root))
    (root / "data" / "was.csv").unlink()
    (root / "data" / "was.csv").symlink_to(root / "data-of-others" / "hidden.csv")
    assert real == path
    assert real.read_text() == "a,b\n1,2\n"


@pytest.fixture
def kept(root):
    return store.Store((root / "store").as_uri(), root / "copies").make()


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("digest", "sha256:../../../data-of-others/hidden.csv"),
        ("digest", "sha256:" + "0" * 64 + "\n"),
        ("digest", "md5:" + "0" * 32),
        ("uri", "file://{root}/data-of-others/hidden.csv"),
        ("uri", "{uri}/../../../data-of-others/hidden.csv"),
        ("uri", "simplecache::{uri}"),
        ("uri", "http://169.254.169.254/latest"),
    ],
)
def test_a_reference_leads_nowhere_but_to_its_own_blob(root, kept, field, text):
    ref = kept.put(values.Text("own"))
    told = {name: getattr(ref, name) for name in ref.__struct_fields__}
    told[field] = text.format(root=root, uri=ref.uri)
    with pytest.raises(errors.ForeignArtifact):
        kept.get(artifacts.ArtifactRef(**told))


def test_a_blob_that_was_exchanged_for_a_link_is_corrupt(root, kept):
    ref = kept.put(values.Text("own"))
    path = kept.path(ref)
    path.unlink()
    path.symlink_to(root / "data-of-others" / "hidden.csv")
    with pytest.raises(errors.ArtifactCorrupt):
        kept.get(ref)


def test_an_archive_is_never_unpacked_by_its_own_names(root):
    shutil.make_archive(str(root / "data" / "tables"), "zip", root / "data-of-others")
    with pytest.raises(kit.StageFault):
        sources.fetch("zip://hidden.csv::file:tables.zip", context_of(root))
