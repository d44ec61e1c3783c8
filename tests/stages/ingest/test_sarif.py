"""What becomes of the findings of static analysis, whoever wrote the log."""

from __future__ import annotations

import gzip
import json
import pathlib
import subprocess
import sys
from typing import Any

import joblib
import msgspec
import pyarrow as pa
import pytest

from agent import catalog, templates
from agent.demo import findings as demo
from stages import kit, registry, sources, values
from stages.features import plan
from stages.ingest import sarif, scans
from stages.prepare import shape, split
from stages.quality import profile
from tests.stages.ingest import logs

PACKAGE = pathlib.Path(joblib.__file__).parent
NEEDED = {
    "rule_id": pa.string(),
    "level": pa.string(),
    "severity": pa.string(),
    "confidence": pa.string(),
    "message": pa.string(),
    "snippet": pa.string(),
    "file": pa.string(),
    "start_line": pa.int64(),
    "end_line": pa.int64(),
    "tool": pa.string(),
    "suppressed": pa.bool_(),
    "suppression_kind": pa.string(),
}


@pytest.fixture
def context(tmp_path: pathlib.Path) -> kit.Context:
    return logs.context_of(tmp_path)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Scan an installed package with bandit and ruff."""
    folder = tmp_path_factory.mktemp("scans")
    bandit = ["bandit", "-q", "-r", "-f", "sarif", "-o", str(folder / "bandit.sarif")]
    made = subprocess.run([sys.executable, "-m", *bandit, str(PACKAGE)], check=False)
    assert made.returncode in (0, 1)
    ruff = ["ruff", "check", "--isolated", "--no-cache", "--exit-zero", "--select", "S,F"]
    with (folder / "ruff.sarif").open("wb") as sink:
        command = [sys.executable, "-m", *ruff, "--output-format", "sarif", str(PACKAGE)]
        subprocess.run(command, check=True, stdout=sink)
    return folder


def test_every_result_of_bandit_is_a_row(scanned):
    told = json.loads((scanned / "bandit.sarif").read_text())["runs"][0]["results"]
    done = logs.read(logs.context_of(scanned), "bandit.sarif")
    assert done.table.rows() == len(told) > 100
    assert done.table.arrow["rule_id"].to_pylist() == [each["ruleId"] for each in told]
    assert done.table.arrow["message"].to_pylist() == [each["message"]["text"] for each in told]


def test_a_medium_finding_of_bandit_has_a_level_though_bandit_writes_none(scanned):
    told = json.loads((scanned / "bandit.sarif").read_text())["runs"][0]["results"]
    medium = [each["properties"]["issue_severity"] == "MEDIUM" for each in told]
    assert any(medium)
    assert not any("level" in each for each, is_it in zip(told, medium, strict=True) if is_it)
    found = logs.read(logs.context_of(scanned), "bandit.sarif").table.arrow.filter(pa.array(medium))
    assert set(found["level"].to_pylist()) == {"warning"}
    assert set(found["severity"].to_pylist()) == {"MEDIUM"}
    assert found["confidence"].null_count == found["snippet"].null_count == 0


def test_the_weakness_and_the_package_of_a_finding_of_bandit_are_told(scanned):
    found = logs.read(logs.context_of(scanned), "bandit.sarif").table.arrow
    assert all(cwe.startswith("CWE-") for cwe in found["cwe"].to_pylist())
    assert set(found["package"].to_pylist()) == {"joblib"}
    assert all(pathlib.Path(file).is_file() for file in found["file"].to_pylist())
    lines = zip(found["start_line"].to_pylist(), found["end_line"].to_pylist(), strict=True)
    assert all(1 <= start <= end for start, end in lines)


def test_ruff_and_bandit_become_one_table_of_the_same_columns(scanned):
    context = logs.context_of(scanned)
    each = [logs.read(context, name).table.arrow for name in ("bandit.sarif", "ruff.sarif")]
    both = logs.read(context, ["bandit.sarif", "ruff.sarif"])
    assert each[0].schema == each[1].schema == both.table.arrow.schema
    assert both.table.arrow == pa.concat_tables(each)
    assert both.report.data["tools"] == {"Bandit": each[0].num_rows, "ruff": each[1].num_rows}
    assert [s["results"] for s in both.report.data["sources"]] == [t.num_rows for t in each]


def test_a_column_that_no_tool_fills_keeps_its_type(scanned):
    found = logs.read(logs.context_of(scanned), "ruff.sarif").table.arrow
    assert found["snippet"].null_count == found.num_rows
    assert {name: found.schema.field(name).type for name in NEEDED} == NEEDED


def test_the_report_says_that_no_finding_tells_whether_it_was_dismissed(scanned):
    (warning,) = logs.read(logs.context_of(scanned), "bandit.sarif").report.data["warnings"]
    assert "suppress" in warning


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return demo.write(tmp_path_factory.mktemp("labelled"))


@pytest.mark.slow
def test_the_marks_of_maintainers_become_suppressions(labelled):
    told = json.loads(labelled.read_text())["runs"][0]["results"]
    done = logs.read(logs.context_of(labelled.parent), labelled.as_uri())
    marked = [bool(each["suppressions"]) for each in told]
    assert done.table.arrow["suppressed"].to_pylist() == marked
    assert done.report.data["suppressed"] == sum(marked)
    assert done.report.data["warnings"] == []
    assert done.report.data["summary"].startswith(f"{len(told)} findings of Bandit")


def triaged(uri: str, context: kit.Context) -> tuple[Any, values.Table]:
    """Design the triage of a log by the profile of what is in it."""
    table = logs.read(context, uri).table
    looked = profile.Profile().run(table, context).data
    return templates.design("finding-triage", {"uri": uri}, looked), table


@pytest.mark.slow
def test_triage_is_designed_on_the_profile_of_real_findings(labelled):
    made, _ = triaged(labelled.as_uri(), logs.context_of(labelled.parent))
    assert catalog.Catalog().check(made) == []
    params = {each.id: each.params for each in made.stages}
    assert params["rules"]["columns"] == ["rule_id", "level", "severity", "confidence"]
    assert params["code"]["columns"] == ["snippet", "message"]


def test_triage_of_a_tool_without_snippets_learns_from_what_there_is(scanned):
    document = json.loads((scanned / "ruff.sarif").read_text())
    for place, result in enumerate(document["runs"][0]["results"]):
        result["suppressions"] = [{"kind": "external"}] if place % 3 else []
    (scanned / "triaged.sarif").write_text(json.dumps(document))
    context = logs.context_of(scanned)
    made, table = triaged("triaged.sarif", context)
    params = {each.id: each.params for each in made.stages}
    assert "snippet" not in params["code"]["columns"]
    labelled = msgspec.convert(params["label"], shape.Label).run(table)
    kept = msgspec.convert(params["columns"], shape.Select).run(labelled)
    parts = msgspec.convert(params["split"], split.Split).run(kept, context)
    features = None
    for name in ("rules", "code"):
        use = next(each.use for each in made.stages if each.id == name)
        step = msgspec.convert(params[name], registry.get(use).cls)
        features = step.run(train=parts.train, features=features)
    frame = parts.train.pandas()
    assert plan.build(features, list(frame.columns)).fit_transform(frame).shape[1] > 10


def test_a_pattern_stands_for_all_its_logs_each_read_once(context):
    for name in ("b", "a"):
        logs.write(context, f"scans/{name}.sarif", logs.log({"ruleId": name}))
    done = logs.read(context, ["scans/*.sarif", str(logs.root(context) / "scans/a.sarif")])
    assert done.table.arrow["rule_id"].to_pylist() == ["a", "b"]
    assert len(done.report.data["sources"]) == 2


def test_a_packed_log_with_a_byte_order_mark_is_read(context):
    content = b"\xef\xbb\xbf" + json.dumps(logs.log({"ruleId": "A"})).encode()
    (logs.root(context) / "a.sarif.gz").write_bytes(gzip.compress(content))
    assert logs.read(context, "a.sarif.gz").table.rows() == 1


def test_the_fingerprint_follows_content_and_names(context):
    stage = sarif.Sarif(uri="scans/*.sarif")
    assert stage.fingerprint(context) == "missing"
    path = logs.write(context, "scans/a.sarif", logs.log({"ruleId": "A"}))
    seen = [stage.fingerprint(context)]
    assert stage.fingerprint(context) == seen[0]
    logs.write(context, "scans/a.sarif", logs.log({"ruleId": "B"}))
    seen.append(stage.fingerprint(context))
    path.rename(path.with_name("b.sarif"))
    seen.append(stage.fingerprint(context))
    logs.write(context, "scans/c.sarif", logs.log())
    seen.append(stage.fingerprint(context))
    assert len(set(seen)) == len(seen)


def test_equal_logs_give_an_equal_table(context):
    document = logs.log({"ruleId": "A", "properties": {"tags": ["b", "a"]}}, {"ruleId": "B"})
    assert logs.rows(context, document) == logs.rows(context, document)


def test_an_empty_log_among_others_is_told_and_no_fault(context):
    logs.write(context, "empty.sarif", logs.log())
    logs.write(context, "full.sarif", logs.log({"suppressions": []}))
    done = logs.read(context, ["empty.sarif", "full.sarif"])
    assert done.table.rows() == 1
    assert done.report.data["warnings"] == ["empty.sarif: no results"]


def test_a_run_that_failed_is_warned_of(context):
    logs.write(context, "a.sarif", logs.log({}, invocations=[{"executionSuccessful": False}]))
    assert "failed" in logs.read(context, "a.sarif").report.data["warnings"][0]


DEEP = "[" * 100_000 + "]" * 100_000
ELSEWHERE = {"externalPropertyFileReferences": {"results": [{"location": {"uri": "r.json"}}]}}


@pytest.mark.parametrize(
    ("content", "fault", "said"),
    [
        (b"", scans.NotJson, "it is empty"),
        (b" \n", scans.NotJson, "it is empty"),
        (b"<xml/>", scans.NotJson, "not JSON"),
        (logs.told(logs.log({}))[:-3], scans.NotJson, "truncated"),
        (logs.told(logs.log({})) + b"{}", scans.NotJson, "trailing"),
        (b'{"version": NaN}', scans.NotJson, "malformed"),
        (b"[]", scans.NotSarif, "Expected `object`"),
        (b"3", scans.NotSarif, "Expected `object`"),
        (b"{}", scans.NotSarif, "does not name its version"),
        (b'{"runs": []}', scans.NotSarif, "does not name its version"),
        (b'{"version": "2.1.0"}', scans.NotSarif, "it has no runs"),
        (b'{"version": "2.1.0", "runs": {}}', scans.NotSarif, r"\$\.runs"),
        (
            logs.told(logs.log({"ruleId": 3})),
            scans.NotSarif,
            r"\$\.runs\[0\]\.results\[0\]\.ruleId",
        ),
        (logs.told(logs.log({"locations": [[]]})), scans.NotSarif, r"results\[0\]\.locations\[0\]"),
        (b'{"version": "2.0.0", "runs": {}}', scans.WrongVersion, r"2\.0\.0"),
        (b'{"version": 2.1, "runs": []}', scans.WrongVersion, r"2\.1,"),
        (b'{"version": "2.1.0", "runs": []}', sarif.NoResults, "no runs"),
        (b'{"version": "2.1.0", "runs": null}', sarif.NoResults, "no runs"),
        (logs.told(logs.log()), sarif.NoResults, "found nothing"),
        (logs.told(logs.log(results=None)), sarif.NoResults, "no results"),
        (
            logs.told(logs.log(invocations=[{"executionSuccessful": False}])),
            sarif.NoResults,
            "run failed",
        ),
        (logs.told(logs.log(**ELSEWHERE)), sarif.NoResults, "in other files"),
        ('{"version": "2.1.0"}'.encode("utf-16"), scans.NotUtf8, "byte 0"),
        (b'{"version": "2.1.0", "x": "\xe9"}', scans.NotUtf8, "byte 27"),
        (f'{{"version": "2.1.0", "runs": [{DEEP}]}}'.encode(), scans.TooDeep, "too deep"),
        (f'{{"version": "2.1.0", "runs": [], "x": {DEEP}}}'.encode(), scans.TooDeep, "too deep"),
    ],
)
def test_what_is_no_log_of_findings_is_refused_with_path_and_hint(context, content, fault, said):
    (logs.root(context) / "a.sarif").write_bytes(content)
    with pytest.raises(fault, match=said) as raised:
        logs.read(context, "a.sarif")
    assert isinstance(raised.value, kit.DataFault)
    assert raised.value.path == "$.uri"
    assert raised.value.hint
    assert "'a.sarif'" in str(raised.value)


def test_a_log_over_the_limit_is_refused_packed_or_not(tmp_path):
    content = logs.told(logs.log(*[{"ruleId": "A"}] * 1000))
    (tmp_path / "a.sarif").write_bytes(content)
    (tmp_path / "b.sarif.gz").write_bytes(gzip.compress(content))
    context = logs.context_of(tmp_path, max_input_bytes=len(content) - 1)
    for uri in ("a.sarif", "b.sarif.gz"):
        with pytest.raises(sources.TooLarge) as raised:
            logs.read(context, uri)
        assert "max_input_bytes" in raised.value.hint


@pytest.mark.parametrize("uri", ["../outside.sarif", "/etc/passwd", ["a.sarif", "../*.sarif"]])
def test_a_log_outside_of_the_roots_is_not_read(context, uri):
    logs.write(context, "a.sarif", logs.log({}))
    (logs.root(context).parent / "outside.sarif").write_bytes(logs.told(logs.log({})))
    with pytest.raises(sources.OutsideRoots):
        logs.read(context, uri)


@pytest.mark.parametrize("uri", ["absent.sarif", "scans/*.sarif", ["a.sarif", "absent.sarif"]])
def test_a_log_that_is_not_there_is_missing_even_if_others_are(context, uri):
    logs.write(context, "a.sarif", logs.log({}))
    with pytest.raises(sources.Missing):
        logs.read(context, uri)


def test_a_cancelled_run_stops_between_logs(tmp_path):
    logs.write(logs.context_of(tmp_path), "a.sarif", logs.log({}))
    services = kit.Services(data_roots=(str(tmp_path),))
    context = kit.Context(workdir=tmp_path, services=services, cancelled=lambda: True)
    with pytest.raises(kit.Cancelled):
        logs.read(context, "a.sarif")


def test_the_stage_is_listed_with_its_ports():
    definition = registry.stages()["ingest.sarif"]
    assert [(port.name, port.kind) for port in definition.outputs] == [
        ("table", "table"),
        ("report", "report"),
    ]
    assert definition.inputs == ()
