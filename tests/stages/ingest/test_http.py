"""Reading a paged API: every way of paging, what is not followed, and what becomes of the rest."""

import datetime as dt
import json
import math
import threading

import msgspec
import pytest

from stages import hosts, kit, secrets, sources
from stages.ingest import asking, http, nests, pacing, pages, table, text
from tests.stages import web

TOKEN = "hush-hush"
ITEMS = [{"id": number} for number in range(1, 8)]
IDS = [1, 2, 3, 4, 5, 6, 7]


@pytest.fixture
def served():
    with web.serving() as running:
        yield running


@pytest.fixture
def elsewhere():
    with web.serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _token(monkeypatch):
    monkeypatch.setenv("MLPM_SECRET_TOKEN", TOKEN)


@pytest.fixture
def told():
    return []


@pytest.fixture
def read(tmp_path, served, told):
    """Read from the server with these parameters."""

    def reading(path="/items", *, services=None, cancelled=lambda: False, **params):
        settings = {"allowed_hosts": ("127.0.0.1",), **(services or {})}
        context = kit.Context(
            workdir=tmp_path,
            services=kit.Services(**settings),
            report=lambda *said: told.append(said),
            cancelled=cancelled,
        )
        params = {"uri": served.url(path), "backoff_s": 0.001, **params}
        return msgspec.convert(params, http.Http).run(context)

    return reading


def ids(found):
    return found.table.arrow["id"].to_pylist()


def sliced(seen):
    start, size = int(seen.query["offset"]), min(int(seen.query["limit"]), 3)
    return web.Reply({"items": ITEMS[start : start + size]})


def numbered(seen):
    number = int(seen.query["page"])
    return web.Reply(ITEMS[(number - 1) * 3 : number * 3])


def linked(seen):
    start = int(seen.query.get("from", 0))
    more = start + 3 < len(ITEMS)
    found = f"?from={start + 3}&kept={seen.query.get('kept', 'no')}" if more else None
    return web.Reply({"items": ITEMS[start : start + 3], "links": {"next": found}})


def headed(seen):
    start = int(seen.query.get("from", 0))
    link = f'</items?from={start + 3}>; rel="next", </items>; rel="first"'
    headers = {"link": link} if start + 3 < len(ITEMS) else {}
    return web.Reply(ITEMS[start : start + 3], headers=headers)


def marked(seen):
    start = int(seen.query.get("after", 0))
    mark = {"mark": start + 3} if start + 3 < len(ITEMS) else {}
    return web.Reply({"items": ITEMS[start : start + 3], "meta": mark})


@pytest.mark.parametrize(
    ("route", "params", "requests"),
    [
        (sliced, {"records": "items", "paging": {"by": "offset", "size": 5}}, 4),
        (numbered, {"paging": {"by": "page"}}, 4),
        (linked, {"records": "items", "paging": {"by": "next_link", "path": "links.next"}}, 3),
        (headed, {"paging": {"by": "link_header"}}, 3),
        (
            marked,
            {"records": "items", "paging": {"by": "cursor", "path": "meta.mark", "param": "after"}},
            3,
        ),
    ],
)
def test_every_way_of_paging_reads_all_rows_once(  # noqa: PLR0917 - a row of the cases
    read, served, told, route, params, requests
):
    served.routes["/items"] = route
    found = read(**params)
    assert ids(found) == IDS
    report = found.report.data
    assert (report["rows"], report["requests"], report["cut"]) == (7, requests, False)
    assert [said[2]["rows"] for said in told][-1] == 7
    assert len(told) == requests


def test_a_single_page_needs_no_paging(read, served):
    served.routes["/items"] = web.Reply({"data": {"items": ITEMS}})
    found = read(records="data.items")
    assert ids(found) == IDS
    assert found.report.data["summary"] == f"7 rows and 1 columns from {served.url('/items')}"


def test_parameters_join_the_query_and_a_link_is_taken_as_it_is(read, served):
    served.routes["/items"] = linked
    paging = {"by": "next_link", "path": "links.next"}
    read("/items?kept=yes", params={"sort": "id", "full": True}, records="items", paging=paging)
    assert served.seen[0].query == {"kept": "yes", "sort": "id", "full": "true"}
    assert served.seen[1].query == {"from": "3", "kept": "yes"}


def test_with_post_the_pages_are_asked_for_in_the_body(read, served):
    def posted(seen):
        start = json.loads(seen.body)["offset"]
        return web.Reply(ITEMS[start : start + 4])

    served.routes["/items"] = posted
    found = read(method="POST", body={"q": "x"}, paging={"by": "offset", "size": 4})
    assert ids(found) == IDS
    assert json.loads(served.seen[1].body) == {"q": "x", "offset": 4, "limit": 4}


def test_rows_are_cut_where_enough_have_come_and_the_report_says_so(read, served, told):
    served.routes["/items"] = numbered
    found = read(paging={"by": "page"}, max_rows=4)
    assert ids(found) == [1, 2, 3, 4]
    assert len(served.seen) == 2
    assert found.report.data["cut"]
    assert "cut at max_rows" in found.report.data["summary"]
    assert [said[0] for said in told] == [0.75, 1.0]


def test_more_pages_than_allowed_are_a_fault_and_no_part_of_a_table(read, served):
    served.routes["/items"] = numbered
    with pytest.raises(http.TooManyPages, match="more than 2 pages") as raised:
        read(paging={"by": "page"}, max_pages=2)
    assert raised.value.path == "$.max_pages"
    assert "max_rows" in raised.value.hint
    assert len(served.seen) == 2


@pytest.mark.parametrize(
    ("reply", "paging"),
    [
        (web.Reply({"items": ITEMS, "next": "/items"}), {"by": "next_link"}),
        (web.Reply({"items": ITEMS, "cursor": "same"}), {"by": "cursor"}),
        (web.Reply({"items": ITEMS}), {"by": "page"}),
        (web.Reply({"items": ITEMS}), {"by": "offset"}),
        (
            web.Reply({"items": ITEMS}, headers={"link": '</items>; rel="next"'}),
            {"by": "link_header"},
        ),
    ],
)
def test_paging_that_loops_is_a_fault(read, served, reply, paging):
    served.routes["/items"] = reply
    with pytest.raises(http.PagingLoops, match="loops") as raised:
        read(records="items", paging=paging)
    assert (raised.value.code, raised.value.path) == ("data_fault", "$.paging")
    assert len(served.seen) == 2


@pytest.mark.parametrize(
    ("body", "paging"),
    [
        ({"items": ITEMS, "next": 3}, {"by": "next_link"}),
        ({"items": ITEMS, "cursor": {"a": 1}}, {"by": "cursor"}),
        ({"items": ITEMS, "cursor": True}, {"by": "cursor"}),
    ],
)
def test_what_leads_to_no_page_is_a_fault(read, served, body, paging):
    served.routes["/items"] = web.Reply(body)
    with pytest.raises(pages.NotALink) as raised:
        read(records="items", paging=paging)
    assert raised.value.path == "$.paging.path"


def test_nested_objects_become_columns_to_a_depth_and_lists_become_text(read, served):
    deep = {"a": {"b": {"c": {"d": 1}}}, "l": [1, {"x": 2}], "id": 1}
    served.routes["/items"] = web.Reply([deep, {"id": 2, "a": None}])
    row = read(depth=2).table.arrow.to_pylist()[0]
    assert row == {"a.b.c": '{"d": 1}', "l": '[1, {"x": 2}]', "id": 1}
    row = read(depth=0).table.arrow.to_pylist()[0]
    assert json.loads(row["a"]) == deep["a"]
    assert read().table.columns == ["a.b.c.d", "l", "id"]


def test_values_that_are_not_finite_stay(read, served):
    served.routes["/items"] = web.Reply(b'[{"x": NaN}, {"x": Infinity}, {"x": 1}]')
    first, second, _ = read().table.arrow["x"].to_pylist()
    assert math.isnan(first)
    assert second == math.inf


def test_a_column_of_several_types_is_a_fault_or_becomes_text(read, served):
    served.routes["/items"] = web.Reply([{"n": 1}, {"n": "soon"}])
    with pytest.raises(text.MixedTypes, match="the column 'n' holds numbers, but also texts"):
        read()
    assert read(mixed="text").table.arrow["n"].to_pylist() == ["1", "soon"]


@pytest.mark.parametrize(
    ("body", "path", "said", "hint"),
    [
        ({"data": {"itmes": []}}, "data.items", "there is nothing", "did you mean 'itmes'?"),
        ({"rows": []}, "data.items", "there is nothing", "there is rows"),
        ({"data": {"rows": []}}, "data", "an object and no list", "there is rows"),
        ({"data": None}, "data", "null and no list", "path to a list"),
        ({"data": "x"}, "data", "a text and no list", "path to a list"),
        ([1, 2], "", "the record 0 is a number", "list of objects"),
        ([{}, [1]], "", "the record 1 is a list", "list of objects"),
        ([], "data", "there is nothing", "leave records empty"),
    ],
)
def test_records_that_are_not_there_are_told_with_what_is(  # noqa: PLR0917 - a row of the cases
    read, served, body, path, said, hint
):
    served.routes["/items"] = web.Reply(body)
    with pytest.raises(nests.NoRecords, match=said) as raised:
        read(records=path)
    assert (raised.value.code, raised.value.path) == ("data_fault", "$.records")
    assert hint in raised.value.hint


@pytest.mark.parametrize("body", [[], [{}, {}]])
def test_an_api_without_rows_is_a_fault(read, served, body):
    served.routes["/items"] = web.Reply(body)
    with pytest.raises(table.NoRows):
        read()


@pytest.mark.parametrize(
    "body", [b"<html>", b"", b'{"a": ', b"\xff\xfe\x00", b"[" * 100_000, b"[" * 900 + b"]" * 900]
)
def test_what_is_no_json_is_told_with_its_type(read, served, body):
    served.routes["/items"] = web.Reply(body, headers={"content-type": "text/html"})
    with pytest.raises((asking.NotJson, nests.NoRecords)) as raised:
        read()
    assert raised.value.path in {"$.uri", "$.records"}
    if isinstance(raised.value, asking.NotJson):
        assert "text/html" in str(raised.value)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"a": {"b": 1}, "a.b": 2}, nests.NameTwice),
        ({"k" * 600: {"k" * 600: 1}}, nests.TooWide),
        ({"a": {f"k{number}": 1 for number in range(10_001)}}, nests.TooWide),
    ],
)
def test_a_record_that_makes_no_row_is_a_fault(read, served, record, fault):
    served.routes["/items"] = web.Reply([record])
    with pytest.raises(fault) as raised:
        read()
    assert (raised.value.code, raised.value.path) == ("data_fault", "$.depth")


@pytest.mark.parametrize("padded", ["records", "around"])
def test_all_pages_together_stay_within_the_limit(read, served, padded):
    def large(seen):
        record = {"id": seen.query["page"]} | ({"t": "x" * 40_000} if padded == "records" else {})
        return web.Reply({"items": [record], "t": "x" * 40_000 if padded == "around" else ""})

    served.routes["/items"] = large
    with pytest.raises(sources.TooLarge, match="100000 are allowed"):
        read(records="items", paging={"by": "page"}, services={"max_input_bytes": 100_000})
    assert len(served.seen) == 3


def failing(times, reply, then):
    """Answer so many times with one thing, then with another."""
    left = [reply] * times

    def answer(seen):
        done = left.pop() if left else then
        return done(seen) if callable(done) else done

    return answer


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_fails_for_the_moment_is_asked_again(read, served, status):
    served.routes["/items"] = failing(2, web.Reply(status=status), web.Reply(ITEMS))
    found = read()
    assert ids(found) == IDS
    assert found.report.data["requests"] == 3


def test_what_goes_on_failing_is_transient_for_the_run(read, served):
    served.routes["/items"] = web.Reply(status=503)
    with pytest.raises(sources.Unavailable, match="answers 503") as raised:
        read(attempts=3)
    assert raised.value.retryable
    assert len(served.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_will_not_get_better_is_asked_once(read, served, status):
    served.routes["/items"] = web.Reply(status=status)
    with pytest.raises(kit.DataFault):
        read()
    assert len(served.seen) == 1


def test_a_server_is_asked_again_no_sooner_than_it_says(read, served):
    busy = web.Reply(status=429, headers={"retry-after": "1"})
    served.routes["/items"] = failing(1, busy, web.Reply(ITEMS))
    read()
    first, second = served.seen
    assert second.at - first.at >= 1


def test_a_wait_that_is_too_long_is_left_to_the_run(read, served):
    served.routes["/items"] = web.Reply(status=503, headers={"retry-after": "86400"})
    with pytest.raises(pacing.Busy, match="a wait of 86400 s"):
        read()
    assert len(served.seen) == 1


def test_an_answer_that_does_not_come_is_given_up_and_asked_for_again(read, served):
    done = threading.Event()

    def silent(_):
        done.wait(30)
        return web.Reply(ITEMS)

    served.routes["/items"] = failing(1, silent, web.Reply(ITEMS))
    try:
        assert ids(read(timeout_s=0.2)) == IDS
    finally:
        done.set()
    assert len(served.seen) == 2


class Clock:
    """A time that passes only by sleeping."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def test_requests_keep_their_distance():
    clock = Clock()
    pace = pacing.Pace(2, lambda: None, clock=clock, sleep=clock.sleep)
    times = []
    for _ in range(3):
        pace.wait_turn()
        times.append(clock())
    assert times == pytest.approx([0, 0.5, 1.0])
    clock.now += 5
    pace.wait_turn()
    assert clock() == pytest.approx(6.0)


def test_a_wait_ends_soon_after_a_cancellation():
    clock = Clock()

    def check():
        if clock() > 1:
            raise kit.Cancelled("the run was cancelled")

    with pytest.raises(kit.Cancelled):
        pacing.Pace(None, check, clock=clock, sleep=clock.sleep).pause(3600)
    assert clock() < 1.2
    assert max(clock.slept) <= pacing.SLICE_S


def test_a_cancellation_ends_a_retry_too(read, served):
    served.routes["/items"] = web.Reply(status=503, headers={"retry-after": "100"})
    with pytest.raises(kit.Cancelled):
        read(cancelled=lambda: bool(served.seen))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("soon", None),
        ("-1", None),
        ("Tue, 24 Nov 2026 10:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 09:00:00 GMT", 0.0),
    ],
)
def test_a_wait_is_asked_for_in_seconds_or_as_a_date(header, seconds):
    now = dt.datetime(2026, 11, 24, 10, tzinfo=dt.UTC)
    assert pacing.wait_asked(header, now) == seconds


AUTH = {"secret": {"env": "MLPM_SECRET_TOKEN"}}


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (AUTH, "authorization", f"Bearer {TOKEN}"),
        ({**AUTH, "header": "X-Api-Key", "scheme": None}, "x-api-key", TOKEN),
    ],
)
def test_a_secret_goes_with_every_page_and_into_nothing_that_is_kept(  # noqa: PLR0917 - a row of the cases
    read, served, told, auth, header, value
):
    served.routes["/items"] = headed
    found = read(auth=auth, paging={"by": "link_header"}, headers={"X-Version": "2"})
    assert {seen.headers[header] for seen in served.seen} == {value}
    assert {seen.headers["x-version"] for seen in served.seen} == {"2"}
    assert TOKEN not in json.dumps(found.report.data) + str(told)


@pytest.mark.parametrize("by", ["link", "redirect"])
@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_no_secret_goes_to_another_origin(read, served, elsewhere, by, header):
    there = elsewhere.url("/items")
    elsewhere.routes["/items"] = web.Reply([{"id": 2}])
    cookie = {"set-cookie": "session=hush-hush"}
    served.routes["/next"] = web.Reply(status=307, headers={"location": there, **cookie})
    link = {"link": f'<{there if by == "link" else "/next"}>; rel="next"'}
    served.routes["/items"] = web.Reply([{"id": 1}], headers={**link, **cookie})
    found = read(
        auth={**AUTH, "header": header}, headers={"X-Mine": "mine"}, paging={"by": "link_header"}
    )
    assert ids(found) == [1, 2]
    (seen,) = elsewhere.seen
    assert TOKEN not in str(seen)
    assert "mine" not in str(seen)
    assert all(TOKEN in str(each) for each in served.seen)


@pytest.mark.parametrize("by", ["link", "redirect"])
def test_a_link_to_a_host_that_is_not_named_is_not_followed(read, served, elsewhere, by):
    there = elsewhere.url("/items", host="localhost")
    served.routes["/next"] = web.Reply(status=302, headers={"location": there})
    link = {"link": f'<{there if by == "link" else "/next"}>; rel="next"'}
    served.routes["/items"] = web.Reply([{"id": 1}], headers=link)
    with pytest.raises(asking.OtherOrigin, match="'localhost'") as raised:
        read(paging={"by": "link_header"})
    assert (raised.value.code, raised.value.path) == ("not_allowed", "$.uri")
    assert elsewhere.seen == []


def test_every_page_is_judged_and_metadata_is_never_reached(read, served):
    link = "http://169.254.169.254/latest"
    served.routes["/items"] = web.Reply({"items": ITEMS, "next": link})
    with pytest.raises(hosts.HostRefused, match="metadata"):
        read(
            records="items",
            paging={"by": "next_link"},
            services={"allowed_hosts": ("127.0.0.1", "169.254.169.254")},
        )


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("ftp://127.0.0.1/x", hosts.SchemeRefused),
        ("file:///etc/passwd", asking.OtherOrigin),
        ("http://[::1", hosts.BadUri),
        ("//localhost/x", asking.OtherOrigin),
    ],
)
def test_a_link_that_is_none_is_refused(read, served, link, fault):
    served.routes["/items"] = web.Reply({"items": ITEMS, "next": link})
    with pytest.raises(fault):
        read(records="items", paging={"by": "next_link"})


def test_a_private_host_needs_to_be_named(read, served):
    with pytest.raises(hosts.HostRefused, match="private"):
        read(services={"allowed_hosts": ()})
    assert served.seen == []


def test_a_secret_is_sent_only_where_the_configuration_names_the_host(read):
    with pytest.raises(
        asking.SecretNotForHost, match=r"no secret is sent to 'example\.org'"
    ) as raised:
        read(uri="https://example.org/items", auth=AUTH, services={"allowed_hosts": ()})
    assert (raised.value.code, raised.value.path) == ("not_allowed", "$.auth")


def test_a_secret_that_is_not_there_is_told_by_its_place(read, served):
    with pytest.raises(secrets.NoSecret, match="NOT_SET") as raised:
        read(auth={"secret": {"env": "MLPM_SECRET_NOT_SET"}})
    assert raised.value.path == "$.auth.secret"
    assert served.seen == []


@pytest.mark.parametrize("secret", ["hush\nhush", "hüsh", "hush\x7f"])
def test_a_secret_that_fits_no_header_is_not_shown(read, monkeypatch, secret):
    monkeypatch.setenv("MLPM_SECRET_TOKEN", secret)
    with pytest.raises(asking.BadSecret) as raised:
        read(auth=AUTH)
    chain = f"{raised.value!r} {raised.value.hint} {raised.value.__cause__!r}"
    assert "hush" not in chain
    assert "hüsh" not in chain


def test_a_secret_that_a_server_sends_back_is_masked_in_the_fault(read, served):
    served.routes["/items"] = lambda seen: web.Reply({seen.headers["authorization"]: 1})
    with pytest.raises(nests.NoRecords) as raised:
        read(auth=AUTH, records="items")
    assert TOKEN not in f"{raised.value} {raised.value.hint}"
    assert secrets.MASK in raised.value.hint


def test_what_a_request_looks_like_shows_no_secret():
    wanted = asking.header("Authorization", "Bearer", TOKEN)
    terms = pacing.Terms(None, 1, 1, 1)
    request = asking.Request("http://h/x?key=hush", "GET", {}, {}, {}, wanted, "", terms)
    assert "hush" not in repr(request)


@pytest.mark.parametrize("uri", ["http://me:hush@127.0.0.1/items", "http://me@127.0.0.1/items"])
def test_credentials_in_the_uri_are_refused(read, uri):
    with pytest.raises(http.CredentialsInUri) as raised:
        read(uri=uri)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    "params",
    [
        {"headers": {"Authorization": "Bearer x"}},
        {"headers": {"X-Api-Key": "x"}},
        {"headers": {"Cookie": "x"}},
        {"headers": {"Host": "elsewhere"}},
        {"headers": {"X-A": "a\r\nX-B: b"}},
        {"headers": {"X-A\n": "a"}},
        {"uri": "file:///etc/passwd"},
        {"uri": "s3://bucket/x"},
        {"method": "DELETE"},
        {"body": {"a": 1}},
        {"paging": {"by": "guess"}},
        {"paging": {"by": "page", "sise": 3}},
        {"auth": {"secret": {"value": TOKEN}}},
        {"auth": {**AUTH, "header": "X:\n"}},
    ],
)
def test_parameters_that_make_no_sense_are_refused_before_anything_is_asked(read, served, params):
    with pytest.raises(msgspec.ValidationError):
        read(**params)
    assert served.seen == []


def test_it_is_never_cached(tmp_path):
    assert http.Http(uri="http://h/x").fingerprint(kit.Context(workdir=tmp_path)) is None
    assert not http.Http.__stage__.cacheable
