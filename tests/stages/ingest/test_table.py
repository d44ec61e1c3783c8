"""Reading a table: what is understood, and what is said of the rest."""

import bz2
import gzip
import json
import lzma
import math
import random
import socket
import subprocess
import sys

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from stages import columns, hosts, kit, sources
from stages.ingest import binary, table, text
from tests.stages import web

ROWS = pa.table({"id": [1, 2, 3], "name": ["a", "b", None]})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path


@pytest.fixture
def read(folder):
    """Read a file of this content, or what the parameter `uri` names."""

    def reading(name, content=None, *, room=10**8, **params):
        if content is not None:
            raw = content if isinstance(content, bytes) else content.encode()
            (folder / name).write_bytes(raw)
        stage = msgspec.convert({"uri": name, **params}, table.Table)
        return stage.run(context_of(folder, room))

    return reading


def context_of(folder, limit=10**8, **others):
    services = kit.Services(
        data_roots=(str(folder),), max_input_bytes=limit, allowed_hosts=("127.0.0.1",)
    )
    return kit.Context(workdir=folder / "work", services=services, **others)


def arrow_bytes(rows, new=pa.ipc.new_file, compression=None):
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with new(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def parquet_bytes(rows, **options):
    sink = pa.BufferOutputStream()
    parquet.write_table(rows, sink, **options)
    return sink.getvalue().to_pybytes()


CSV = "id,name\n1,a\n2,b\n3,\n"
LINES = '{"id": 1, "name": "a"}\n{"id": 2, "name": "b"}\n\n{"id": 3, "name": null}\n'
FORMS = {
    "x.csv": CSV.encode(),
    "x.tsv": CSV.replace(",", "\t").encode(),
    "x.txt": CSV.replace(",", ";").encode(),
    "X.CSV": CSV.encode("utf-8-sig"),
    "x.jsonl": LINES.encode(),
    "x.ndjson": LINES.encode("utf-8-sig"),
    "x.parquet": parquet_bytes(ROWS),
    "parquet": parquet_bytes(ROWS),
    "x.arrow": arrow_bytes(ROWS),
    "x.feather": arrow_bytes(ROWS, compression="lz4"),
    "x.ipc": arrow_bytes(ROWS, pa.ipc.new_stream, "zstd"),
    "arrow": arrow_bytes(ROWS),
    "x.csv.gz": gzip.compress(CSV.encode()),
    "x.jsonl.bz2": bz2.compress(LINES.encode()),
    "x.parquet.xz": lzma.compress(parquet_bytes(ROWS)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(read, name):
    found = read(name, FORMS[name])
    assert found.table.arrow.to_pydict() == ROWS.to_pydict()
    assert found.report.data["summary"] == f"3 rows and 2 columns from {name}"
    assert found.report.data["bytes"] == len(FORMS[name])


def test_columns_and_rows_are_chosen(read):
    for name, content in FORMS.items():
        found = read(name, content, columns=["name", "name"], limit=2)
        assert found.table.arrow.to_pydict() == {"name": ["a", "b"]}, name


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet", "x.arrow"])
def test_a_column_that_is_not_there_is_told_with_its_like(read, name):
    with pytest.raises(columns.NoSuchColumn, match="'nmae'") as raised:
        read(name, FORMS[name], columns=["nmae"])
    fault = raised.value
    assert (fault.code, fault.path, fault.hint) == (
        "data_fault",
        "$.columns",
        "did you mean 'name'?",
    )


def test_the_format_may_be_given(read):
    assert read("x.data", CSV, format="csv").table.rows() == 3
    with pytest.raises(table.UnknownFormat, match=r"'x\.data'") as raised:
        read("x.data", CSV)
    assert raised.value.path == "$.format"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b""),
        ("x.csv", b"\n \n"),
        ("x.csv", b"a,b\n"),
        ("x.csv.gz", gzip.compress(b"")),
        ("x.jsonl", b"\n\n"),
        ("x.jsonl", b"{}\n{}\n"),
        ("x.parquet", parquet_bytes(ROWS.slice(0, 0))),
        ("x.arrow", arrow_bytes(ROWS.slice(0, 0))),
        ("x.parquet", parquet_bytes(pa.table({}))),
    ],
)
def test_a_source_without_rows_is_a_fault(read, name, content):
    with pytest.raises(table.NoRows, match="has no rows") as raised:
        read(name, content)
    assert (raised.value.code, raised.value.path) == ("data_fault", "$.uri")


TWICE = pa.Table.from_arrays([pa.array([1]), pa.array(["x"]), pa.array([2])], ["a", "a", "b"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"a,a,b\n1,x,2\n"),
        ("x.csv", b"a,a,b\n1,3,2\n"),
        ("x.parquet", parquet_bytes(TWICE)),
        ("x.arrow", arrow_bytes(TWICE)),
    ],
)
def test_one_name_for_two_columns_is_a_fault(read, name, content):
    with pytest.raises(text.RepeatedColumns, match="several columns of the name 'a'") as raised:
        read(name, content)
    assert "its own name" in raised.value.hint


def test_a_column_without_a_name_gets_one_and_the_report_says_so(read):
    found = read("x.csv", ",a\n0,1\n")
    assert found.table.columns == ["column_1", "a"]
    assert found.report.data["named"] == ["column_1"]


def test_a_wrong_delimiter_is_told_with_the_likely_one(read):
    with pytest.raises(text.WrongDelimiter, match="the header 'a;b' is a single column") as raised:
        read("x.csv", "a;b\n1;2\n", delimiter=",")
    assert raised.value.path == "$.delimiter"
    assert "set delimiter to ';'" in raised.value.hint


@pytest.mark.parametrize("delimiter", [";;", '"', "\n", ""])
def test_a_delimiter_is_one_letter(read, delimiter):
    with pytest.raises(msgspec.ValidationError):
        read("x.csv", CSV, delimiter=delimiter)


def test_a_delimiter_within_quotes_separates_nothing(read):
    found = read("x.csv", 'a;b\n"1,5;x";2\n"2,5\n3";3\n')
    assert found.table.arrow.to_pydict() == {"a": ["1,5;x", "2,5\n3"], "b": [2, 3]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "a\nNaN\ninf\n-inf\n2\n\n"),
        ("x.jsonl", '{"a": NaN}\n{"a": Infinity}\n{"a": -Infinity}\n{"a": 2}\n'),
        ("x.parquet", parquet_bytes(pa.table({"a": [math.nan, math.inf, -math.inf, 2.0]}))),
        ("x.arrow", arrow_bytes(pa.table({"a": [math.nan, math.inf, -math.inf, 2.0]}))),
    ],
)
def test_values_that_are_not_finite_stay_and_are_no_gaps(read, name, content):
    column = read(name, content).table.arrow["a"]
    assert column.null_count == 0
    np.testing.assert_array_equal(column.to_pylist(), [math.nan, math.inf, -math.inf, 2.0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "n\n" + "1\n" * 20 + "soon\n", "numbers, but also 'soon' in row 21"),
        ("x.jsonl", '{"n": 1}\n{"n": "soon"}\n', 'numbers, but also texts, as "soon"'),
        ("x.jsonl", '{"n": {"m": 1}}\n{"n": {"m": "x"}}\n', "objects, but also"),
    ],
)
def test_a_column_of_several_types_is_a_fault_or_becomes_text(read, name, content, said):
    with pytest.raises(text.MixedTypes, match=f"the column 'n' holds {said}") as raised:
        read(name, content)
    assert raised.value.path == "$.mixed"
    assert "set mixed to 'text'" in raised.value.hint
    assert str(read(name, content, mixed="text").table.arrow["n"].type) == "string"


def test_whole_numbers_then_fractions_far_apart_are_numbers(read):
    content = "n\n" + "1\n" * 1_000_000 + "2.5\n"
    assert str(read("x.csv", content).table.arrow["n"].type) == "double"


def test_a_column_of_gaps_is_text(read):
    for name, content in (("x.csv", "a,b\n,1\n"), ("x.jsonl", '{"a": null, "b": 1}\n')):
        assert str(read(name, content).table.arrow["a"].type) == "string"


@pytest.mark.parametrize(
    ("content", "guess"),
    [("müller".encode("cp1252"), "cp1252"), ("müller".encode("utf-16"), "utf-16")],
)
def test_text_in_another_encoding_is_told_with_the_byte_and_a_guess(read, content, guess):
    with pytest.raises(text.WrongEncoding, match="is not utf-8: byte") as raised:
        read("x.csv", content)
    assert raised.value.path == "$.encoding"
    assert repr(guess) in raised.value.hint


def test_an_encoding_may_be_given(read):
    found = read("x.csv", "name\nmüller\n".encode("utf-16"), encoding="utf-16")
    assert found.table.arrow["name"].to_pylist() == ["müller"]


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "hex", "utf\0"])
def test_an_encoding_that_there_is_none_of_is_a_fault(read, encoding):
    with pytest.raises(text.UnknownEncoding) as raised:
        read("x.csv", CSV, encoding=encoding)
    assert raised.value.path == "$.encoding"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "a,b\n1,2\n3\n", "Expected 2 columns, got 1"),
        ("x.csv", 'a,b\n"1,2\n3,4\n', "CSV parse error"),
        ("x.jsonl", '{"a": 1}\n{"a": 2', "line 2"),
        ("x.jsonl", '{"a": 1}\n{"a": 2}}', "line 2"),
        ("x.jsonl", '[{"a": 1}]', "line 1 is not an object"),
        ("x.jsonl", "1\n2\n", "line 1 is not an object"),
        ("x.jsonl", '{"a": "' + '\\"' * 100_000 + "}", "Unterminated string"),
        ("x.jsonl", '{"a": "\\ud800"}', "surrogate"),
        ("x.parquet", b"PAR1", "Parquet"),
        ("x.parquet", parquet_bytes(ROWS)[:-10], "Parquet"),
        ("x.parquet", CSV, "Parquet"),
        ("x.arrow", b"ARROW1", "its end is missing"),
        ("x.arrow", arrow_bytes(ROWS)[:-10], "its end is missing"),
        ("x.arrow", arrow_bytes(ROWS, pa.ipc.new_stream)[:-60], "Arrow IPC"),
        ("x.arrow", CSV, "Arrow IPC"),
    ],
)
def test_a_broken_file_is_told_with_the_place(read, name, content, said):
    with pytest.raises(text.Broken, match=said) as raised:
        read(name, content)
    assert (raised.value.code, raised.value.path) == ("data_fault", "$.uri")


def test_lines_that_would_end_the_process_are_refused(read):
    with pytest.raises(text.Broken, match="line 1 is not an object"):
        read("x.jsonl", "null\n")
    for deep in ("[" * 50_000 + "]" * 50_000, '{"a":' * 50_000 + "1" + "}" * 50_000):
        with pytest.raises(text.Broken, match="nested more than 60 deep"):
            read("x.jsonl", f'{{"a": {deep}}}\n')
    assert read("x.jsonl", '{"a": "' + "[" * 1000 + '"}\n').table.rows() == 1


@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.bz2", "x.parquet.xz"])
def test_a_packed_file_that_is_cut_or_is_none_is_unreadable(read, name):
    for content in (FORMS[name][:-12], b"a,b\n1,2\n"):
        with pytest.raises(sources.Unreadable, match="can't be unpacked") as raised:
            read(name, content)
        assert raised.value.path == "$.uri"


def test_what_unpacks_beyond_the_limit_is_not_read(read, folder):
    with pytest.raises(sources.TooLarge, match="1000000 are allowed") as raised:
        read("bomb.csv.gz", gzip.compress(b"1,2\n" * 1_000_000), room=1_000_000)
    assert "access.max_input_bytes" in raised.value.hint
    assert max(each.stat().st_size for each in (folder / "work").iterdir()) <= 1_000_000


PEAK = """
import pathlib, re, sys, msgspec
from stages import kit, sources
from stages.ingest import table
import pyarrow.parquet, pyarrow.json
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
services = kit.Services(data_roots=(str(folder),), max_input_bytes=100_000_000)
before = peak()
try:
    msgspec.convert({"uri": name}, table.Table).run(kit.Context(workdir=folder, services=services))
except sources.TooLarge:
    print(peak() - before)
"""

ONCE = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["x" * 1_000_000])


def bomb(array):
    """Write a text once and name it 200,000 times; a reader that trusts it needs 200 GB."""
    sink = pa.BufferOutputStream()
    schema = pa.schema([("a", array.type)])
    with parquet.ParquetWriter(sink, schema, store_schema=False) as writer:
        writer.write_table(pa.table([array], schema=schema))
    return sink.getvalue().to_pybytes()


def views():
    each = np.zeros(200_000, [("length", "<i4"), ("start", "S4"), ("buffer", "<i4"), ("at", "<i4")])
    each["length"], each["start"] = 1_000_000, b"xxxx"
    buffers = [None, pa.py_buffer(each.tobytes()), pa.py_buffer(b"x" * 1_000_000)]
    return pa.Array.from_buffers(pa.string_view(), len(each), buffers)


BOMBS = {
    "text.parquet": lambda: bomb(ONCE),
    "list.parquet": lambda: bomb(pa.ListArray.from_arrays(pa.array([0, 200_000]), ONCE)),
    "struct.parquet": lambda: bomb(pa.StructArray.from_arrays([ONCE], ["b"])),
    "zeros.parquet": lambda: parquet_bytes(pa.table({"a": np.zeros(50_000_000)})),
    "zeros.arrow": lambda: arrow_bytes(pa.table({"a": np.zeros(50_000_000)}), compression="zstd"),
    "views.arrow": lambda: arrow_bytes(pa.table({"a": views()}), compression="zstd"),
    "gaps.arrow": lambda: arrow_bytes(pa.table({"a": pa.nulls(2_000_000_000)})),
    "names.jsonl": lambda: "".join(f'{{"k{n}": 1}}\n' for n in range(30_000)).encode(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_memory_fills(folder, name):
    content = BOMBS[name]()
    assert len(content) < 8_000_000
    (folder / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder), name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250_000  # kB


def test_the_first_rows_of_a_large_file_are_read_within_the_limit(read):
    assert read("x.parquet", bomb(ONCE), limit=3).table.rows() == 3
    with pytest.raises(sources.TooLarge):
        read("x.parquet", bomb(ONCE), limit=300)


def test_types_whose_few_bytes_stand_for_many_are_refused_by_name(read):
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([20_000_000], pa.int32()), ["x"])
    rows = pa.table({"few": runs}), pa.table({"few": pa.array([[1]], pa.list_view(pa.int64()))})
    for each in rows:
        with pytest.raises(binary.FoldedColumn, match="the column 'few' of type") as raised:
            read("x.arrow", arrow_bytes(each))
        assert raised.value.path == "$.columns"


def test_texts_as_views_and_as_dictionaries_are_read(read):
    rows = pa.table(
        {
            "v": pa.array(["a", "a longer text than fits", None], pa.string_view()),
            "d": pa.array(["x", "y", "x"]).dictionary_encode(),
            "l": [["a", "b"], [], None],
            "s": [{"t": "a"}, {"t": None}, None],
        }
    )
    for name, content in (("x.arrow", arrow_bytes(rows)), ("x.parquet", parquet_bytes(rows))):
        found = read(name, content).table.arrow
        assert found.to_pylist() == rows.to_pylist()
        assert str(found["v"].type) == "string"


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.feather", "x.jsonl", "x.csv"])
def test_bytes_changed_anywhere_are_read_or_refused_by_name(read, name):
    chance = random.Random(7)
    for _ in range(150):
        content = bytearray(FORMS[name])
        for _ in range(chance.choice((1, 1, 3))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        try:
            read(name, bytes(content)).table.arrow.to_pydict()
        except (kit.DataFault, sources.Missing) as fault:
            assert fault.path  # noqa: PT017 - either end is right


def test_the_first_source_that_can_be_read_is(read, folder):
    (folder / "backup.csv").write_text(CSV)
    (folder / "broken.csv").write_text("a,b\n1\n")
    found = read("", uri=["gone.csv", "broken.csv", "backup.csv", "never.csv"])
    assert found.table.rows() == 3
    report = found.report.data
    assert report["source"] == "backup.csv"
    assert [each["uri"] for each in report["failed"]] == ["gone.csv", "broken.csv"]
    assert "2 before it could not be read" in report["summary"]


def test_a_primary_that_can_be_read_leaves_the_backup_alone(read):
    assert read("x.csv", CSV, uri=["x.csv", "gone.csv"]).report.data["failed"] == []


def test_sources_that_all_fail_are_all_told(read):
    with pytest.raises(table.NoSource, match=r"none of 2.*'a\.csv'.*'b\.csv'") as raised:
        read("", uri=["a.csv", "b.csv"])
    assert not raised.value.retryable
    assert [each["uri"] for each in raised.value.failed] == ["a.csv", "b.csv"]


def test_sources_of_which_one_may_come_back_are_tried_again_later(read):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/a.csv"
        with pytest.raises(table.NoSourceNow) as raised:
            read("", uri=["gone.csv", uri])
    assert (raised.value.code, raised.value.retryable) == ("transient", True)


def test_a_source_that_may_not_be_read_is_no_reason_to_take_a_backup(read, folder):
    (folder / "backup.csv").write_text(CSV)
    for uri in ("../x.csv", "http://169.254.169.254/x.csv", "ftp://h/x.csv"):
        with pytest.raises(kit.NotAllowed):
            read("", uri=[uri, "backup.csv"])


def test_a_uri_that_is_none_gives_way_to_a_backup(read, folder):
    (folder / "backup.csv").write_text(CSV)
    assert read("", uri=["http://[::1/x.csv", "backup.csv"]).table.rows() == 3
    with pytest.raises(hosts.BadUri):
        read("", uri="http://[::1/x.csv")


def test_a_url_is_read_and_its_query_is_not_told(read):
    with web.serving() as served:
        served.routes["/x.csv"] = web.Reply(CSV.encode())
        found = read("", uri=served.url("/x.csv?key=hush"))
    assert found.table.rows() == 3
    assert "hush" not in json.dumps(found.report.data)


def test_the_fingerprint_follows_the_content_of_primary_and_backups(folder):
    stage = table.Table(uri=["a.csv", "b.csv"])
    seen = set()
    for name, content in (("a.csv", "1"), ("b.csv", "2"), ("a.csv", "3"), ("a.csv", "1")):
        (folder / name).write_text(content)
        seen.add(stage.fingerprint(context_of(folder)))
    assert len(seen) == 3
    assert None not in seen


def test_a_cancelled_run_reads_nothing(folder):
    with pytest.raises(kit.Cancelled):
        table.Table(uri="x.csv").run(context_of(folder, cancelled=lambda: True))
