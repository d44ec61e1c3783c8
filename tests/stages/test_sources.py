"""What may be read and what may not, from real files and a real server."""

import gzip
import socket

import fsspec
import pytest

from stages import hosts, kit, sources
from tests.stages import web

LOCAL = ("127.0.0.1",)


@pytest.fixture
def served():
    with web.serving() as running:
        yield running


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "data" / "sales.csv").write_text("a,b\n1,2\n")
    (tmp_path / "hidden.csv").write_text("secret\n")
    return tmp_path


def context_of(root, **services):
    settings = {"data_roots": (str(root / "data"),), "allowed_hosts": LOCAL, **services}
    return kit.Context(workdir=root / "work", services=kit.Services(**settings))


def read(uri, context):
    return sources.fetch(uri, context).read_bytes()


@pytest.mark.parametrize(
    "form", ["sales.csv", "./x/../sales.csv", "file:sales.csv", "{}", "file://{}"]
)
def test_a_file_within_the_roots_is_read_where_it_lies(root, form):
    uri = form.format(root / "data" / "sales.csv")
    assert sources.fetch(uri, context_of(root)) == root / "data" / "sales.csv"


@pytest.mark.parametrize(
    "uri",
    [
        "../hidden.csv",
        "x/../../hidden.csv",
        "file:../hidden.csv",
        "file:%2e%2e/hidden.csv",
        "file:///etc/passwd",
        "/etc/passwd",
        "file://elsewhere/etc/passwd",
        "sales.csv\0.png",
        "file:sales.csv%00",
        "link.csv",
        "folder/hidden.csv",
        "loop.csv",
    ],
)
def test_no_path_leads_out_of_the_roots(root, uri):
    (root / "data" / "link.csv").symlink_to(root / "hidden.csv")
    (root / "data" / "folder").symlink_to(root)
    (root / "data" / "loop.csv").symlink_to(root / "data" / "loop.csv")
    with pytest.raises(sources.OutsideRoots, match="not in a folder that may be read") as raised:
        read(uri, context_of(root))
    fault = raised.value
    assert (fault.code, fault.path) == ("not_allowed", "$.uri")
    assert "access.data_roots" in fault.hint
    with pytest.raises(sources.OutsideRoots):
        sources.digest(uri, context_of(root).services)


def test_nothing_is_read_where_no_folder_is_allowed(root):
    with pytest.raises(sources.OutsideRoots):
        read("sales.csv", context_of(root, data_roots=()))


def test_a_missing_file_is_told_with_names_that_look_alike(root):
    with pytest.raises(sources.Missing, match=r"'sale\.csv'") as raised:
        read("sale.csv", context_of(root))
    assert (raised.value.code, raised.value.hint) == ("data_fault", "did you mean 'sales.csv'?")


def test_the_names_of_other_folders_are_not_told(root):
    (root / "data" / "out").symlink_to(root)
    with pytest.raises(kit.StageFault) as raised:
        read("out/hiden.csv", context_of(root))
    assert "hidden" not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize("uri", [".", "x" * 300 + ".csv", "/".join(["x" * 200] * 40)])
def test_what_is_no_file_is_unreadable(root, uri):
    with pytest.raises(sources.Unreadable) as raised:
        read(uri, context_of(root))
    assert raised.value.path == "$.uri"


def test_a_file_on_the_way_makes_a_path_missing(root):
    with pytest.raises(sources.Missing):
        read("sales.csv/more.csv", context_of(root))


@pytest.mark.parametrize(
    "uri", ["ftp://host/x.csv", "data:text/csv,a", "simplecache::file:sales.csv", "gopher:x"]
)
def test_a_scheme_that_is_not_allowed_is_refused_with_those_that_are(root, uri):
    with pytest.raises(hosts.SchemeRefused, match=uri.partition(":")[0]) as raised:
        read(uri, context_of(root))
    assert (raised.value.code, raised.value.path) == ("not_allowed", "$.uri")
    assert "https" in raised.value.hint


@pytest.mark.parametrize("uri", ["s3::file:sales.csv", "gs::file:///etc/passwd"])
def test_a_chain_of_file_systems_is_not_followed(root, uri):
    with pytest.raises(sources.Unreadable, match="chains of file systems are not followed"):
        read(uri, context_of(root))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://[::1/x.csv", "Invalid IPv6 URL"),
        ("http://user:hush@[::1/x.csv?key=hush", "Invalid IPv6 URL"),
        ("http://127.0.0.1:99999/x.csv", "out of range"),
        ("http:///x.csv", "names no host"),
    ],
)
def test_a_uri_that_is_none_is_a_data_fault_without_its_secrets(root, uri, said):
    with pytest.raises(hosts.BadUri, match=said) as raised:
        read(uri, context_of(root))
    assert (raised.value.code, raised.value.path) == ("data_fault", "$.uri")
    assert "hush" not in str(raised.value)


def test_what_is_shown_of_a_uri_holds_no_user_password_or_query():
    assert sources.shown("https://me:hush@h.org/x.csv?key=hush#hush") == "https://h.org/x.csv"
    assert "hush" not in sources.shown("https://me:hush@[/x.csv?key=hush")


def test_a_url_is_brought_to_the_workdir(root, served):
    served.routes["/sales.csv"] = web.Reply(b"a,b\n1,2\n")
    context = context_of(root)
    path = sources.fetch(served.url(f"/sales.csv?{'x' * 300}"), context)
    assert path.read_bytes() == b"a,b\n1,2\n"
    assert path.parent == context.workdir


@pytest.mark.parametrize(
    ("status", "fault", "retryable"),
    [
        (404, sources.Missing, False),
        (410, sources.Missing, False),
        (403, sources.Unreadable, False),
        (429, sources.Unavailable, True),
        (503, sources.Unavailable, True),
    ],
)
def test_the_status_decides_whether_to_try_again(root, served, status, fault, retryable):
    served.routes["/x.csv"] = web.Reply(b"no", status)
    with pytest.raises(fault) as raised:
        read(served.url("/x.csv?key=hush"), context_of(root))
    assert raised.value.retryable is retryable
    assert "hush" not in str(raised.value)


def test_a_server_that_is_not_there_may_be_there_later(root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(sources.Unavailable):
            read(f"http://127.0.0.1:{taken.getsockname()[1]}/x.csv", context_of(root))


def test_a_download_stops_at_the_limit(root, served):
    served.routes["/big.csv"] = web.Reply(b"x" * 4_000_000)
    with pytest.raises(sources.TooLarge, match="1000000 are allowed"):
        read(served.url("/big.csv"), context_of(root, max_input_bytes=1_000_000))


def test_an_answer_packed_by_the_server_counts_as_it_unpacks(root, served):
    packed = gzip.compress(b"x" * 4_000_000)
    served.routes["/big.csv"] = web.Reply(packed, headers={"content-encoding": "gzip"})
    assert read(served.url("/big.csv"), context_of(root)) == b"x" * 4_000_000
    with pytest.raises(sources.TooLarge):
        read(served.url("/big.csv"), context_of(root, max_input_bytes=1_000_000))


def test_an_answer_packed_twice_is_not_unpacked(root, served):
    packed = gzip.compress(gzip.compress(b"x"))
    served.routes["/bomb"] = web.Reply(packed, headers={"content-encoding": "gzip, gzip"})
    with pytest.raises(sources.Unreadable, match="packs its answer as 'gzip, gzip'"):
        read(served.url("/bomb"), context_of(root))


def test_a_download_ends_when_the_run_is_cancelled(root, served):
    served.routes["/x.csv"] = web.Reply(b"a")
    context = kit.Context(
        workdir=root / "work", services=context_of(root).services, cancelled=lambda: True
    )
    with pytest.raises(kit.Cancelled):
        sources.fetch(served.url("/x.csv"), context)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",  # the same, as one number
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "100.100.100.200",
        "168.63.129.16",
    ],
)
def test_link_local_and_metadata_addresses_are_refused_even_where_listed(root, host):
    context = context_of(root, allowed_hosts=(host.strip("[]"),))
    with pytest.raises(hosts.HostRefused, match="link-local or serves") as raised:
        read(f"http://{host}/latest/meta-data", context)
    assert (raised.value.code, raised.value.path) == ("not_allowed", "$.uri")


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "[::]", "[::1.2.3.4]"])
def test_addresses_of_no_host_are_refused_even_where_listed(root, host):
    with pytest.raises(hosts.HostRefused, match="not a host's"):
        read(f"http://{host}/x", context_of(root, allowed_hosts=(host.strip("[]"),)))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "10.0.0.1", "[::1]"])
def test_private_addresses_need_to_be_listed(root, host):
    with pytest.raises(hosts.HostRefused, match="private") as raised:
        read(f"http://{host}:1/x", context_of(root, allowed_hosts=()))
    assert "access.allowed_hosts" in raised.value.hint


def test_only_listed_hosts_are_reached_where_some_are(root, served):
    with pytest.raises(hosts.HostRefused, match=r"'localhost'.*not among the allowed hosts"):
        read(served.url("/x", host="localhost"), context_of(root))
    assert served.seen == []


def test_a_name_without_an_address_may_have_one_later(root):
    with pytest.raises(hosts.HostUnknown) as raised:
        read("http://no-such-host.invalid/x", context_of(root, allowed_hosts=()))
    assert raised.value.retryable


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("http://169.254.169.254/latest", hosts.HostRefused),
        ("http://localhost:{port}/good.csv", hosts.HostRefused),
        ("file:///etc/passwd", sources.Unreadable),
        ("ftp://127.0.0.1/x", hosts.SchemeRefused),
    ],
)
def test_a_redirect_is_judged_like_any_request(root, served, target, fault):
    served.routes["/good.csv"] = web.Reply(b"a")
    to = target.format(port=served.port)
    served.routes["/x.csv"] = web.Reply(status=302, headers={"location": to})
    with pytest.raises(fault):
        read(served.url("/x.csv"), context_of(root))
    assert [seen.path for seen in served.seen] == ["/x.csv"]


def test_a_redirect_to_an_allowed_host_is_followed(root, served):
    served.routes["/good.csv"] = web.Reply(b"a")
    served.routes["/x.csv"] = web.Reply(status=302, headers={"location": "/good.csv"})
    assert read(served.url("/x.csv"), context_of(root)) == b"a"


def test_redirects_without_end_are_a_fault_of_the_source(root, served):
    served.routes["/x.csv"] = web.Reply(status=302, headers={"location": "/x.csv"})
    with pytest.raises(sources.Unreadable):
        read(served.url("/x.csv"), context_of(root))


def test_two_hosts_at_one_address_share_no_connection(root, served):
    served.routes["/x"] = web.Reply(b"a")
    services = context_of(root, allowed_hosts=("127.0.0.1", "localhost")).services
    with sources.client(services) as client:
        for host in ("127.0.0.1", "127.0.0.1", "localhost"):
            client.get(served.url("/x", host=host))
    first, again, other = (seen.port for seen in served.seen)
    assert first == again != other
    assert served.seen[2].headers["host"] == f"localhost:{served.port}"


def test_other_file_systems_are_read_through_fsspec(root):
    fsspec.filesystem("memory").pipe("/bucket/x.csv", b"a,b\n")
    context = context_of(root, allowed_schemes=("memory",))
    assert read("memory://bucket/x.csv", context) == b"a,b\n"
    with pytest.raises(sources.Missing):
        read("memory://bucket/y.csv", context)
    with pytest.raises(sources.TooLarge):
        read(
            "memory://bucket/x.csv",
            context_of(root, allowed_schemes=("memory",), max_input_bytes=1),
        )
    with pytest.raises(hosts.SchemeRefused):
        read("memory://bucket/x.csv", context_of(root))


def test_a_digest_tells_contents_apart(root):
    services = context_of(root).services
    first = sources.digest("sales.csv", services)
    (root / "data" / "sales.csv").write_text("a,b\n1,3\n")
    assert first != sources.digest("sales.csv", services)
    assert sources.digest("gone.csv", services) == "missing"


def test_a_url_is_told_by_its_etag_or_not_at_all(root, served):
    services = context_of(root).services
    served.routes["/x"] = web.Reply(b"a", headers={"etag": '"1"'})
    first = sources.digest(served.url("/x"), services)
    served.routes["/x"] = web.Reply(b"b", headers={"etag": '"2"'})
    assert None is not first != sources.digest(served.url("/x"), services)
    served.routes["/x"] = web.Reply(b"b")
    assert sources.digest(served.url("/x"), services) is None
    assert sources.digests(["sales.csv", served.url("/x")], services) is None
    assert sources.digest(served.url("/gone"), services) == "missing"


def test_a_pattern_lists_files_within_the_roots_alone(root):
    (root / "data" / "more.csv").write_text("x")
    (root / "data" / "out.csv").symlink_to(root / "hidden.csv")
    services = context_of(root).services
    assert sources.expand("[ms]*.csv", services) == [
        str(root / "data" / name) for name in ("more.csv", "sales.csv")
    ]
    for pattern in ("*.csv", "../*.csv", "*/../../*.csv"):
        with pytest.raises(sources.OutsideRoots):
            sources.expand(pattern, services)
    with pytest.raises(sources.Missing):
        sources.expand("*.parquet", services)
