"""What a query brings back from real SQLite files, a real PostgreSQL and a real ADBC driver."""

from __future__ import annotations

import datetime as dt
import decimal
import sqlite3
import threading
import time
import uuid

import msgspec
import pyarrow as pa
import pytest
import sqlalchemy as sa

from stages import hosts, kit, registry, secrets, sources
from stages.ingest import (
    arrow_sessions,
    asking,
    cells,
    databases,
    guard,
    refusals,
    sql,
    statements,
    table,
    text,
)
from tests.stages.ingest import postgres

SHOP = """
    CREATE TABLE wines (name TEXT, price REAL, stock INTEGER, label BLOB, note TEXT, odd);
    INSERT INTO wines VALUES
        ('Ch"âteau', 9.5, 3, x'00ff', NULL, 1),
        ('Rioja; gran', 12, 0, NULL, NULL, 'many'),
        ('100% Merlot', NULL, -2, x'', NULL, 2.5);
"""
COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n{limit}) SELECT {what}"
FOREVER = COUNTING.format(limit="", what="count(*) FROM n")
ALL = "SELECT name, price, stock FROM wines"
SQLITE_URLS = ["sqlite:///shop.db", "adbc+sqlite:shop.db", "adbc+sqlite:///shop.db"]


@pytest.fixture
def shop(tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.executescript(SHOP)
    connection.close()
    return tmp_path


@pytest.fixture
def context(shop):
    return context_of(shop)


def context_of(folder, *, cancelled=lambda: False, **services):
    known = {"data_roots": (str(folder),), "allowed_hosts": ("127.0.0.1",)} | services
    workdir = folder / "work"
    workdir.mkdir(exist_ok=True)
    return kit.Context(workdir=workdir, services=kit.Services(**known), cancelled=cancelled)


def stage(url="sqlite:///shop.db", query=ALL, **params):
    return msgspec.convert({"url": url, "query": query} | params, sql.Sql)


def read(context, query=ALL, url="sqlite:///shop.db", **params):
    return stage(url, query, **params).run(context)


def rows(done):
    return done.table.arrow.to_pylist()


def types(done):
    return {name: kind for name, kind, _ in done.table.schema()}


def test_it_is_a_stage_with_a_table_and_a_report():
    definition = registry.get("ingest.sql")
    assert [port.name for port in definition.outputs] == ["table", "report"]


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_rows_come_with_types_and_a_report_of_their_source(context, url):
    done = read(context, "SELECT name, price, stock, label, note FROM wines", url)
    assert types(done) == {
        "name": "string",
        "price": "double",
        "stock": "int64",
        "label": "binary",
        "note": types(done)["note"],
    }
    assert types(done)["note"] != "null"
    assert rows(done)[0] == {
        "name": 'Ch"âteau', "price": 9.5, "stock": 3, "label": b"\x00\xff", "note": None,
    }  # fmt: skip
    assert done.report.data["source"] == "shop.db"
    assert done.report.data["rows"] == 3
    assert not done.report.data["truncated"]


def test_a_column_of_gaps_alone_is_text_where_nothing_is_known_of_it(context):
    assert types(read(context, "SELECT note FROM wines")) == {"note": "string"}


def test_a_column_without_a_name_is_given_one(context):
    done = read(context, 'SELECT 1 AS "", 2 AS x')
    assert rows(done) == [{"column_1": 1, "x": 2}]


def test_an_absolute_path_within_the_roots_is_read(context, shop):
    assert len(rows(read(context, url=f"sqlite:///{shop}/shop.db"))) == 3


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_parameters_are_bound_and_never_written_in(context, url):
    evil = "x' OR '1'='1"
    query = "SELECT name FROM wines WHERE name = :name OR stock < :most -- :not 'one"
    done = read(context, query, url, params={"name": "Rioja; gran", "most": -1})
    assert [row["name"] for row in rows(done)] == ["Rioja; gran", "100% Merlot"]
    with pytest.raises(sql.NoRows):
        read(context, query, url, params={"name": evil, "most": -100})


@pytest.mark.parametrize(
    ("query", "params", "style", "expected"),
    [
        ("SELECT ':a', :a::int", {"a": 1}, "pyformat", ("SELECT ':a', %(a)s::int", {"a": 1})),
        ("SELECT '5%' = :a", {"a": 1}, "pyformat", ("SELECT '5%%' = %(a)s", {"a": 1})),
        ("SELECT :b, :a, :b", {"a": 1, "b": 2}, "qmark", ("SELECT ?, ?, ?", (2, 1, 2))),
        ("SELECT :b, :a", {"a": 1, "b": 2}, "numeric_dollar", ("SELECT $1, $2", (2, 1))),
        ('SELECT $$ :a $$, ":a" /* :a */, :a', {"a": 1}, "qmark",
         ('SELECT $$ :a $$, ":a" /* :a */, ?', (1,))),
        ("SELECT '12:30', x[1:2]", {}, "qmark", ("SELECT '12:30', x[1:2]", ())),
    ],
)  # fmt: skip
def test_a_parameter_is_found_outside_of_texts_names_casts_and_comments(
    query, params, style, expected
):
    statement = statements.one(query, params, "$.query")
    assert statements.written(statement, style) == expected


def test_parameters_that_are_missing_or_not_named_are_told(context):
    with pytest.raises(statements.NotBound, match=":most") as missing:
        read(context, "SELECT 1 WHERE 1 < :most")
    assert missing.value.path == "$.query"
    with pytest.raises(statements.NotNamed) as unnamed:
        read(context, params={"most": 1})
    assert unnamed.value.path == "$.params.most"


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_reading_stops_at_max_rows_and_says_that_there_are_more(context, url):
    query = COUNTING.format(limit=" LIMIT 1000", what="i FROM n")
    done = read(context, query, url, max_rows=25, chunk_rows=10)
    assert [row["i"] for row in rows(done)] == list(range(1, 26))
    assert done.report.data["truncated"]
    whole = read(context, query, url, max_rows=1000, chunk_rows=10)
    assert len(rows(whole)) == 1000
    assert not whole.report.data["truncated"]


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_no_more_bytes_are_read_than_a_source_may_have(shop, url):
    query = COUNTING.format(limit="", what="i FROM n")
    with pytest.raises(sources.TooLarge):
        read(context_of(shop, max_input_bytes=100_000), query, url, chunk_rows=1000)


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_a_column_of_several_types_fails_or_is_text_as_asked(context, url):
    with pytest.raises(text.MixedTypes, match="'odd'") as mixed:
        read(context, "SELECT odd FROM wines", url)
    assert "cast" in mixed.value.hint
    done = read(context, "SELECT odd FROM wines", url, mixed="text")
    one, many, half = (row["odd"] for row in rows(done))
    assert (one, many) == ("1", "many")
    assert half.startswith("2.5")  # the ADBC driver writes 2.500000e+00


def test_extension_types_of_a_driver_become_what_any_library_reads():
    id_ = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    opaque = pa.opaque(pa.string(), "numeric", "PostgreSQL")
    other = pa.opaque(pa.string(), "inet", "PostgreSQL")
    found = arrow_sessions.plain(
        pa.table(
            {
                "id": pa.array([uuid.UUID(id_).bytes, None], pa.uuid()),
                "doc": pa.array(['{"a": 1}', None], pa.json_(pa.string())),
                "n": pa.ExtensionArray.from_storage(opaque, pa.array(["1.25", None])),
                "gap": pa.ExtensionArray.from_storage(opaque, pa.array([None, None], pa.string())),
                "net": pa.ExtensionArray.from_storage(other, pa.array(["10.0.0.1", None])),
            }
        )
    )
    assert [str(kind) for kind in found.schema.types] == [
        "string", "string", "decimal128(3, 2)", "decimal128(38, 10)", "string",
    ]  # fmt: skip
    assert found.to_pylist()[0] == {
        "id": id_, "doc": '{"a": 1}', "n": decimal.Decimal("1.25"), "gap": None, "net": "10.0.0.1",
    }  # fmt: skip


def test_a_type_that_parts_between_chunks_is_told_where_the_driver_can_not_mend_it(context):
    with pytest.raises(arrow_sessions.TypeChanged) as changed:
        read(context, "SELECT odd FROM wines", "adbc+sqlite:shop.db", chunk_rows=1, mixed="text")
    assert changed.value.column == "odd"
    query = "SELECT 'a' AS x UNION ALL SELECT x'00ff'"
    with pytest.raises(refusals.BadQuery, match="UTF8"):
        read(context, query, "adbc+sqlite:shop.db", chunk_rows=1, mixed="text")


def test_types_that_part_between_chunks_are_found_and_mended(context):
    query = "SELECT odd FROM wines"
    with pytest.raises(text.MixedTypes):
        read(context, query, chunk_rows=1)
    done = read(context, query, chunk_rows=1, mixed="text")
    assert [row["odd"] for row in rows(done)] == ["1", "many", "2.5"]


def test_whole_numbers_among_fractions_make_fractions_unless_they_would_change(context):
    done = read(context, "SELECT 1 AS x UNION ALL SELECT 2.5", chunk_rows=1)
    assert rows(done) == [{"x": 1.0}, {"x": 2.5}]
    with pytest.raises(cells.Unfit, match="9007199254740993"):
        read(context, "SELECT 9007199254740993 AS x UNION ALL SELECT 2.5", chunk_rows=1)


@pytest.mark.parametrize("url", SQLITE_URLS)
@pytest.mark.parametrize(
    ("query", "fault", "said"),
    [
        ("SELEC 1", statements.NotASelect, "SELEC"),
        ("SELECT FROM", refusals.BadQuery, "syntax error"),
        ("SELECT colour FROM wines", refusals.BadQuery, "no such column: colour"),
        ("SELECT * FROM wine", refusals.UnknownTable, "wine"),
        ("SELECT name FROM wines WHERE stock > 99", sql.NoRows, "no rows"),
        ("SELECT name, stock AS name FROM wines", sql.RepeatedNames, "'name'"),
    ],
)
def test_what_is_wrong_with_a_query_is_a_fault_of_the_data_or_refused(
    context, url, query, fault, said
):
    with pytest.raises(fault, match=said) as raised:
        read(context, query, url)
    assert raised.value.path == "$.query"
    assert not raised.value.retryable


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_an_unknown_table_comes_with_names_that_look_alike(context, url):
    with pytest.raises(refusals.UnknownTable) as raised:
        read(context, "SELECT * FROM wine", url)
    assert raised.value.hint == "did you mean 'wines'?"


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM wines",
        "INSERT INTO wines (name) VALUES ('x')",
        "  /* a */ -- b\n DROP TABLE wines",
        "PRAGMA user_version = 3",
        "ATTACH 'other.db' AS other",
        "/*!DELETE FROM wines */",
        "VALUES (1)",
        "",
    ],
)
def test_what_is_no_select_is_refused(context, query):
    with pytest.raises((statements.NotASelect, msgspec.ValidationError)):
        read(context, query)


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_no_library_is_loaded_by_a_query(context, url):
    with pytest.raises(refusals.BadQuery, match="not authorized"):
        read(context, "SELECT load_extension('/tmp/evil.so') AS x", url)


@pytest.mark.parametrize("query", ["SELECT 1; DROP TABLE wines", "SELECT ';' AS x", "SELECT 1;;"])
def test_a_semicolon_within_is_refused(context, query):
    with pytest.raises(statements.ManyStatements) as refused:
        read(context, query)
    assert refused.value.code == "not_allowed"


def test_a_last_semicolon_and_comments_before_are_fine(context):
    assert rows(read(context, "-- all\n/* of */ SELECT 1 AS x;\n")) == [{"x": 1}]


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_a_write_behind_with_is_refused_by_the_database(context, url):
    with pytest.raises(refusals.WriteRefused):
        read(context, "WITH x AS (SELECT 1) DELETE FROM wines", url)
    assert len(rows(read(context))) == 3


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("sqlite:////etc/passwd", sources.OutsideRoots),
        ("sqlite:///../shop.db", sources.OutsideRoots),
        ("adbc+sqlite:../../etc/passwd", sources.OutsideRoots),
        ("sqlite:///shop.bd", sources.Missing),
        ("sqlite://", databases.Malformed),
        ("sqlite:///:memory:", databases.Malformed),
        ("sqlite:///file:shop.db?mode=rwc&uri=true", databases.OptionRefused),
        ("shop.db", databases.Malformed),
        ("postgresql://me:hush@127.0.0.1/x", databases.SecretInUrl),
        ("postgresql://me@/x?host=/var/run", databases.OptionRefused),
        ("postgresql://me@127.0.0.1/x?service=other", databases.OptionRefused),
        ("postgresql:///x", databases.Malformed),
        ("postgresql://me@169.254.169.254/x", hosts.HostRefused),
        ("postgresql://me@10.0.0.8/x", hosts.HostRefused),
        ("adbc+postgresql://me@10.0.0.8/x", hosts.HostRefused),
    ],
)
def test_a_database_that_may_not_be_read_is_refused_before_it_is_reached(context, url, fault):
    with pytest.raises(fault) as raised:
        read(context, url=url)
    assert raised.value.path == "$.url"
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["postgresql", "adbc+postgresql", "mysql"])
@pytest.mark.parametrize("asked", ["run", "fingerprint"])
def test_a_secret_is_sent_only_where_the_configuration_names_the_host(shop, scheme, asked):
    reading = stage(
        f"{scheme}://me@93.184.216.34/x",
        "SELECT 1 AS x",
        password={"env": "MLPM_SECRET_NOT_SET"},  # it is not even looked for
        version_query="SELECT 1",
    )
    with pytest.raises(asking.SecretNotForHost, match=r"'93\.184\.216\.34'") as raised:
        getattr(reading, asked)(context_of(shop, allowed_hosts=()))
    assert (raised.value.code, raised.value.path) == ("not_allowed", "$.password")


def test_a_missing_file_is_named_with_those_that_look_alike(context):
    with pytest.raises(sources.Missing) as raised:
        read(context, url="sqlite:///shopp.db")
    assert "shop.db" in raised.value.hint


def test_what_is_no_database_is_said_so(context, shop):
    (shop / "text.db").write_text("not a database at all, and long enough to tell " * 20)
    for url in ("sqlite:///text.db", "adbc+sqlite:text.db"):
        with pytest.raises(refusals.NotADatabase):
            read(context, url=url)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql+psycopg2://me@127.0.0.1/x", "extra postgres"),
        ("adbc+flightsql://127.0.0.1/x", "extra adbc.*adbc-driver-flightsql"),
        ("mysql+pymysql://me@127.0.0.1/x", "every node"),
        ("nosuch://me@127.0.0.1/x", "every node"),
        ("adbc+manager://me@127.0.0.1/x", "as 'sqlite'"),
    ],
)
def test_an_absent_driver_is_named_with_what_installs_it(context, url, named):
    with pytest.raises(databases.NoDriver) as raised:
        read(context, url=url)
    assert pa.compute.match_substring_regex(pa.scalar(raised.value.hint), named).as_py()
    assert not raised.value.retryable


@pytest.mark.parametrize("driver", ["/tmp/evil.so", "../evil", "manager", "os.path"])
def test_a_driver_is_a_name_and_never_a_library(context, driver):
    with pytest.raises(databases.NoDriver):
        read(context, driver=driver)


def test_a_driver_may_be_named_beside_the_url(context):
    done = read(context, driver="sqlite")
    assert done.report.data["driver"] == "sqlite"
    assert len(rows(done)) == 3


def test_a_backup_is_read_where_the_primary_is_not_there(context):
    done = read(context, url=["sqlite:///gone.db", "sqlite:///shop.db"])
    assert len(rows(done)) == 3
    assert "a backup" in done.report.data["summary"]
    assert done.report.data["failed"][0]["uri"] == "gone.db"
    with pytest.raises(table.NoSource):
        read(context, url=["sqlite:///gone.db", "sqlite:///gone2.db"])
    away = f"postgresql://me@127.0.0.1:{postgres.free_port()}/x"
    with pytest.raises(table.NoSourceNow):
        read(context, url=["sqlite:///gone.db", away])


def test_a_query_that_takes_too_long_is_stopped(context):
    with pytest.raises(guard.TookTooLong) as late:
        read(context, FOREVER, timeout_s=0.3)
    assert late.value.code == "timeout"


def test_a_cancellation_stops_a_query_that_gives_no_rows(shop):
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    started = time.monotonic()
    with pytest.raises(kit.Cancelled):
        read(context_of(shop, cancelled=asked.is_set), FOREVER)
    assert time.monotonic() - started < 10


def test_a_sqlite_file_is_told_by_its_digest(context, shop):
    before = stage().fingerprint(context)
    assert before
    assert stage(url="adbc+sqlite:shop.db").fingerprint(context) == before
    with sqlite3.connect(shop / "shop.db") as connection:
        connection.execute("UPDATE wines SET stock = 4")
    connection.close()
    assert stage().fingerprint(context) != before


def test_what_is_still_in_the_write_ahead_log_is_told_too(context, shop):
    with sqlite3.connect(shop / "shop.db") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        before = stage().fingerprint(context)
        connection.execute("UPDATE wines SET stock = 4")
        connection.commit()
        assert stage().fingerprint(context) != before
    connection.close()


@pytest.mark.parametrize("what", ["random()", "date('now')", "CURRENT_TIMESTAMP", "wrong FROM x"])
def test_a_query_of_the_clock_or_of_chance_is_not_cached(context, what):
    assert stage(query=f"SELECT {what} AS x").fingerprint(context) is None


@pytest.mark.parametrize("url", SQLITE_URLS)
def test_a_version_query_tells_whether_rows_may_have_changed(context, shop, url):
    versioned = stage(url, version_query="SELECT max(stock) FROM wines")
    before = versioned.fingerprint(context)
    assert before
    with sqlite3.connect(shop / "shop.db") as connection:
        connection.execute("UPDATE wines SET name = 'unseen'")
        connection.commit()
        assert versioned.fingerprint(context) == before
        connection.execute("UPDATE wines SET stock = 9")
        connection.commit()
    connection.close()
    assert versioned.fingerprint(context) != before


def test_a_version_that_can_not_be_asked_is_no_fingerprint(context):
    assert stage(version_query="SELECT max(x) FROM nope").fingerprint(context) is None
    with pytest.raises(statements.NotASelect) as refused:
        stage(version_query="DELETE FROM wines").fingerprint(context)
    assert refused.value.path == "$.version_query"


@pytest.fixture(scope="module")
def port():
    with postgres.running() as port:
        engine = sa.create_engine(f"postgresql://postgres@127.0.0.1:{port}/postgres")
        with engine.begin() as connection:
            quoted = postgres.PASSWORD.replace("'", "''").replace("%", "%%")
            connection.exec_driver_sql(f"CREATE USER ann PASSWORD '{quoted}'")
            connection.exec_driver_sql("CREATE TABLE wines (name text, stock int)")
            connection.exec_driver_sql("INSERT INTO wines VALUES ('5%%', 3), ('Rioja', NULL)")
            connection.exec_driver_sql("CREATE SEQUENCE numbers")
            connection.exec_driver_sql("GRANT ALL ON wines, numbers TO ann")
            connection.exec_driver_sql("CREATE TABLE hidden (x int)")
        engine.dispose()
        yield port


@pytest.fixture
def ask(port, tmp_path, monkeypatch):
    monkeypatch.setenv("MLPM_SECRET_ANN", postgres.PASSWORD)

    def asking(query, user="ann", cancelled=lambda: False, **params):
        url = f"postgresql://{user}@127.0.0.1:{port}/postgres"
        params = {"password": {"env": "MLPM_SECRET_ANN"}, "url": url} | params
        return read(context_of(tmp_path, cancelled=cancelled), query, **params)

    return asking


def test_postgres_types_keep_what_they_mean(ask):
    done = ask(
        """SELECT 1::int2 AS small, 2::int4 AS middle, 3::int8 AS large, 1.5::float4 AS single,
        2.5::float8 AS double, 12.30::numeric(10, 2) AS money, 1.25 AS exact, true AS yes,
        DATE '2026-11-24' AS day, TIMESTAMP '2026-11-24 10:00' AS naive,
        TIMESTAMPTZ '2026-11-24 10:00+02' AS instant, TIME '10:30' AS clock,
        INTERVAL '90 s' AS span, '\\x00ff'::bytea AS bytes,
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS id, '{"a": [1, null]}'::jsonb AS doc,
        'x'::char(3) AS padded, ARRAY[1, NULL] AS list, inet '10.0.0.1' AS net"""
    )
    assert types(done) == {
        "small": "int16", "middle": "int32", "large": "int64", "single": "float",
        "double": "double", "money": "decimal128(10, 2)", "exact": "decimal128(3, 2)",
        "yes": "bool", "day": "date32[day]", "naive": "timestamp[us]",
        "instant": "timestamp[us, tz=UTC]", "clock": "time64[us]", "span": "duration[us]",
        "bytes": "binary", "id": "string", "doc": "string", "padded": "string",
        "list": types(done)["list"], "net": "string",
    }  # fmt: skip
    assert types(done)["list"].startswith("list<")
    row = rows(done)[0]
    assert row["money"] == decimal.Decimal("12.30")
    assert row["instant"] == dt.datetime(2026, 11, 24, 8, tzinfo=dt.UTC)
    assert row["span"] == dt.timedelta(seconds=90)
    assert row["id"] == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    assert row["doc"] == '{"a": [1, null]}'
    assert row["list"] == [1, None]
    assert row["net"] == "10.0.0.1"


def test_a_column_of_gaps_alone_has_the_type_that_postgres_says(ask):
    done = ask("SELECT NULL::int AS i, NULL::timestamptz AS t, NULL::numeric AS n, NULL AS u")
    assert types(done) == {
        "i": "int32",
        "t": "timestamp[us, tz=UTC]",
        "n": "decimal128(38, 10)",
        "u": "string",
    }


def test_decimals_without_a_scale_grow_with_the_chunks_and_nan_makes_numbers(ask):
    query = "SELECT x FROM (VALUES (1.5), (100000.25), ({})) AS t (x)"
    done = ask(query.format("-0.001"), chunk_rows=1)
    assert types(done) == {"x": "decimal128(9, 3)"}
    assert rows(done)[2]["x"] == decimal.Decimal("-0.001")
    assert types(ask(query.format("'NaN'::numeric"), chunk_rows=1)) == {"x": "double"}


def test_postgres_binds_parameters_and_keeps_percent_signs(ask):
    query = "SELECT name FROM wines WHERE name LIKE '5%' AND stock::int = :stock"
    assert rows(ask(query, params={"stock": 3})) == [{"name": "5%"}]
    assert rows(ask("SELECT name FROM wines WHERE name LIKE '5%'")) == [{"name": "5%"}]


def test_rows_are_fetched_so_many_at_a_time_by_a_cursor_on_the_server(ask):
    done = ask("SELECT i, (SELECT count(*) FROM pg_cursors) AS cursors "
               "FROM generate_series(1, 2500) AS i", chunk_rows=1000)  # fmt: skip
    assert [row["i"] for row in rows(done)] == list(range(1, 2501))
    assert rows(done)[0]["cursors"] == 1
    few = ask("SELECT i FROM generate_series(1, 100000) AS i", max_rows=10, chunk_rows=100)
    assert len(rows(few)) == 10
    assert few.report.data["truncated"]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT nextval('numbers')",
        "WITH gone AS (DELETE FROM wines RETURNING *) SELECT * FROM gone",
        "SELECT * INTO copied FROM wines",
        "SELECT * FROM wines FOR UPDATE",
        "SELECT set_config('transaction_read_only', 'off', true)",
    ],
)
def test_postgres_refuses_to_write(ask, query):
    with pytest.raises((refusals.WriteRefused, refusals.BadQuery)) as refused:
        ask(query)
    assert not refused.value.retryable
    assert len(rows(ask("SELECT * FROM wines"))) == 2


def test_a_write_in_a_function_is_refused_as_not_allowed(ask):
    with pytest.raises(refusals.WriteRefused) as refused:
        ask("SELECT nextval('numbers')")
    assert refused.value.code == "not_allowed"


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("SELECT * FROM wine", refusals.UnknownTable),
        ("SELECT FROM WHERE", refusals.BadQuery),
        ("SELECT 1 / 0 AS x", refusals.BadQuery),
        ("SELECT * FROM hidden", refusals.BadQuery),
    ],
)
def test_what_postgres_says_of_a_query_is_passed_on(ask, query, fault):
    with pytest.raises(fault):
        ask(query)


def test_an_unknown_table_of_postgres_comes_with_names_that_look_alike(ask):
    with pytest.raises(refusals.UnknownTable) as raised:
        ask("SELECT * FROM wine")
    assert raised.value.hint == "did you mean 'wines'?"


@pytest.mark.parametrize("user", ["ann", "nobody"])
def test_a_wrong_password_is_no_passing_fault_and_is_not_told(ask, monkeypatch, user):
    monkeypatch.setenv("MLPM_SECRET_ANN", "wrong-secret")
    with pytest.raises(refusals.AccessRefused) as raised:
        ask("SELECT 1 AS x", user)
    assert not raised.value.retryable
    assert "wrong-secret" not in str(raised.value)


def test_a_secret_that_a_database_repeats_is_masked(ask):
    with pytest.raises(refusals.BadQuery) as raised:
        ask("SELECT :p::int", params={"p": postgres.PASSWORD})
    assert postgres.PASSWORD not in str(raised.value)
    assert secrets.MASK in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_a_secret_that_is_not_there_is_named(ask):
    with pytest.raises(secrets.NoSecret) as raised:
        ask("SELECT 1 AS x", password={"env": "MLPM_SECRET_NOT_SET"})
    assert raised.value.path == "$.password"


def test_a_server_that_is_away_is_a_passing_fault(ask):
    away = f"postgresql://ann@127.0.0.1:{postgres.free_port()}/postgres"
    with pytest.raises(refusals.Away) as raised:
        ask("SELECT 1 AS x", url=away)
    assert raised.value.retryable


def test_a_statement_that_takes_too_long_is_stopped(ask):
    with pytest.raises(guard.TookTooLong):
        ask("SELECT pg_sleep(60)", timeout_s=0.5)


def test_postgres_itself_knows_the_limit_of_time(ask):
    done = ask("SELECT current_setting('statement_timeout') AS limited", timeout_s=3600)
    assert rows(done)[0]["limited"].endswith(("min", "s", "ms"))


def test_a_cancellation_ends_the_query_and_closes_the_connection(ask, port):
    asked = threading.Event()
    threading.Timer(0.5, asked.set).start()
    with pytest.raises(kit.Cancelled):
        ask("SELECT 'cancelled here', pg_sleep(60)", cancelled=asked.is_set)
    assert others(port) == 0


def others(port):
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ann'"
    engine = sa.create_engine(f"postgresql://postgres@127.0.0.1:{port}/postgres")
    for _ in range(200):
        with engine.connect() as connection:
            found = connection.exec_driver_sql(query).scalar()
        if not found:
            break
        time.sleep(0.02)
    engine.dispose()
    return found


def test_postgres_rows_are_cached_by_a_version_query_alone(port, tmp_path, monkeypatch):
    monkeypatch.setenv("MLPM_SECRET_ANN", postgres.PASSWORD)
    place = {
        "url": f"postgresql://ann@127.0.0.1:{port}/postgres",
        "query": "SELECT * FROM wines",
        "password": {"env": "MLPM_SECRET_ANN"},
    }
    context = context_of(tmp_path)
    assert stage(**place).fingerprint(context) is None
    versioned = stage(**place, version_query="SELECT count(*) FROM wines")
    assert versioned.fingerprint(context) == versioned.fingerprint(context) is not None
    away = place["url"].replace(str(port), str(postgres.free_port()))
    both = stage(**place | {"url": [place["url"], away]}, version_query="SELECT 1")
    assert both.fingerprint(context) is None
