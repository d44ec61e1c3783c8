"""What a finding's row says, whoever wrote the log and however little it tells."""

from __future__ import annotations

import pathlib

import pytest

from stages import kit
from tests.stages.ingest import logs


@pytest.fixture
def context(tmp_path: pathlib.Path) -> kit.Context:
    return logs.context_of(tmp_path)


def test_a_result_that_says_nothing_is_a_row_of_gaps(context):
    found = logs.row(context, {})
    assert found | {"level": "warning", "kind": "fail", "suppressed": False} == found
    told = {name for name, value in found.items() if value is not None}
    assert told == {
        *("level", "kind", "suppressed", "tool", "tool_version", "run", "source"),
    }


def test_a_run_without_a_tool_and_null_in_every_place_are_read(context):
    parts = ("rules", "extensions", "ruleId", "message", "locations", "suppressions", "properties")
    result = dict.fromkeys([*parts, "fingerprints", "taxa", "rank", "rule", "kind"])
    document = {"version": "2.1.0", "runs": [{"results": [result], "artifacts": None}]}
    (found,) = logs.rows(context, document)
    assert found["tool"] is None
    assert found["rule_id"] is None


RULES = (
    {"id": "A", "guid": "a-guid", "name": "Alpha", "defaultConfiguration": {"level": "error"}},
    {"id": "B", "name": "Beta", "shortDescription": {"text": "b"}},
)


@pytest.mark.parametrize(
    ("result", "rule_id", "name"),
    [
        ({"ruleId": "A"}, "A", "Alpha"),
        ({"ruleIndex": 1}, "B", "Beta"),
        ({"rule": {"id": "B"}}, "B", "Beta"),
        ({"rule": {"index": 1}}, "B", "Beta"),
        ({"rule": {"guid": "a-guid"}}, "A", "Alpha"),
        ({"ruleId": "A/1"}, "A/1", "Alpha"),
        ({"ruleId": "A/1", "ruleIndex": 0}, "A/1", "Alpha"),
        ({"ruleId": "A", "ruleIndex": 1}, "A", "Alpha"),
        ({"ruleId": "C", "ruleIndex": 1}, "C", None),
        ({"ruleIndex": 99}, None, None),
        ({"ruleIndex": -1}, None, None),
    ],
)
def test_a_rule_is_found_by_index_id_and_guid_and_a_stale_index_is_not_believed(
    context, result, rule_id, name
):
    found = logs.row(context, result, rules=RULES)
    assert (found["rule_id"], found["rule_name"]) == (rule_id, name)


def test_a_rule_of_an_extension_is_found_by_its_component(context):
    pack = {"name": "pack", "rules": [{"id": "X", "name": "Ex"}]}
    tool = {"driver": {"name": "t", "rules": [{"id": "A"}]}, "extensions": [pack]}
    for reference in ({"index": 0}, {"name": "pack"}):
        rule = {"index": 0, "toolComponent": reference}
        assert logs.row(context, {"rule": rule}, tool=tool)["rule_name"] == "Ex"


@pytest.mark.parametrize(
    ("result", "level"),
    [
        ({"ruleId": "A", "level": "note"}, "note"),
        ({"ruleId": "A"}, "error"),
        ({"ruleId": "B"}, "warning"),
        ({}, "warning"),
        ({"ruleId": "A", "kind": "pass"}, "none"),
        ({"ruleId": "A", "kind": "fail"}, "error"),
        ({"ruleId": "A", "provenance": {"invocationIndex": 0}}, "note"),
        ({"ruleId": "B", "provenance": {"invocationIndex": 0}}, "warning"),
    ],
)
def test_a_level_that_is_not_given_is_resolved_as_the_standard_says(context, result, level):
    override = {"descriptor": {"id": "A"}, "configuration": {"level": "note"}}
    invocation = {"executionSuccessful": True, "ruleConfigurationOverrides": [override]}
    found = logs.row(context, result, rules=RULES, invocations=[invocation])
    assert found["level"] == level


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"text": "plain {x} and {0}"}, "plain {x} and {0}"),
        ({"text": "'{0}' in {1}, {{0}}", "arguments": ["a", "b"]}, "'a' in b, {0}"),
        ({"id": "own", "arguments": ["a"]}, "own a"),
        ({"id": "shared"}, "for all"),
        ({"id": "own"}, "own {0}"),
        ({"id": "absent"}, None),
        ({"markdown": "**m**"}, "**m**"),
        ({"text": "uses [a value](1) of [x](https://x)"}, "uses a value of [x](https://x)"),
    ],
)
def test_a_message_is_written_out_with_its_arguments(context, message, text):
    rule = {"id": "A", "messageStrings": {"own": {"text": "own {0}"}}}
    shared = {"shared": {"text": "for all"}}
    driver = {"name": "t", "rules": [rule], "globalMessageStrings": shared}
    found = logs.row(context, {"ruleId": "A", "message": message}, tool={"driver": driver})
    assert found["message"] == text


BASES = {
    "SRC": {"uri": "file:///home/me/project/"},
    "SUB": {"uri": "sub%20dir", "uriBaseId": "SRC"},
    "NOWHERE": {"description": {"text": "not told"}},
    "A": {"uri": "a/", "uriBaseId": "B"},
    "B": {"uri": "b/", "uriBaseId": "A"},
}


@pytest.mark.parametrize(
    ("place", "file", "base"),
    [
        (logs.at("src/x.py"), "src/x.py", None),
        (logs.at("./src//x.py"), "src/x.py", None),
        (logs.at("src/x%20y.py", uriBaseId="SRC"), "src/x y.py", "/home/me/project/"),
        (logs.at("x.py", uriBaseId="SUB"), "sub dir/x.py", "/home/me/project/"),
        (logs.at("x.py", uriBaseId="NOWHERE"), "x.py", None),
        (logs.at("x.py", uriBaseId="%SRCROOT%"), "x.py", None),
        (logs.at("x.py", uriBaseId="A"), "b/a/x.py", None),
        (logs.at("file:///home/me/project/src/x.py"), "src/x.py", "/home/me/project/"),
        (logs.at("/home/me/project/x.py"), "x.py", "/home/me/project/"),
        (logs.at("file:///opt/x.py"), "/opt/x.py", None),
        (logs.at("file:/opt/x.py"), "/opt/x.py", None),
        (logs.at("file://server/share/x.py"), "//server/share/x.py", None),
        (logs.at("file:///C:/code/x.c"), "C:/code/x.c", None),
        (logs.at("C:\\code\\x.c"), "C:/code/x.c", None),
        (logs.at("src\\x.c"), "src/x.c", None),
        (logs.at("https://host/x.js"), "https://host/x.js", None),
        (logs.at(index=0), "lib/z.py", "/home/me/project/"),
        (logs.at(index=7), None, None),
        (logs.at(), None, None),
        ([{}], None, None),
        ([{"logicalLocations": [{"name": "f"}]}, *logs.at("second.py")], "second.py", None),
    ],
)
def test_a_file_is_told_below_the_root_of_what_was_scanned(context, place, file, base):
    artifacts = [{"location": {"uri": "lib/z.py", "uriBaseId": "SRC"}}]
    found = logs.row(context, {"locations": place}, originalUriBaseIds=BASES, artifacts=artifacts)
    assert (found["file"], found["root"]) == (file, base)


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("joblib/a/b.py", "joblib"),
        ("file:///venv/lib/python3.11/site-packages/joblib/a.py", "joblib"),
        ("file:///venv/lib/python3.11/site-packages/six.py", "six"),
        ("web/node_modules/left-pad/index.js", "left-pad"),
        ("file:///opt/project/a.py", None),
        ("a.py", None),
    ],
)
def test_the_package_is_the_one_installed_or_the_first_folder(context, uri, package):
    assert logs.row(context, {"locations": logs.at(uri)})["package"] == package


def test_lines_that_are_no_lines_are_not_told(context):
    for number in (0, -1, 1e300, 2**63):
        place = logs.at("a.py", region={"startLine": number, "endLine": number})
        assert logs.row(context, {"locations": place})["start_line"] is None
    alone = logs.row(context, {"locations": logs.at("a.py", region={"startLine": 3.0})})
    assert (alone["start_line"], alone["end_line"]) == (3, 3)


def test_code_comes_from_the_region_the_kept_file_or_the_lines_around(context):
    kept = [{"location": {"uri": "a.py"}, "contents": {"text": "one\ntwo\nthree\n"}}]
    place = logs.at("a.py", index=0, region={"startLine": 2, "endLine": 3})
    assert logs.row(context, {"locations": place}, artifacts=kept)["snippet"] == "two\nthree"
    place[0]["physicalLocation"]["region"]["snippet"] = {"text": "own"}
    place[0]["physicalLocation"]["contextRegion"] = {"snippet": {"text": "around"}}
    found = logs.row(context, {"locations": place}, artifacts=kept)
    assert (found["snippet"], found["context"]) == ("own", "around")
    del place[0]["physicalLocation"]["region"]
    assert logs.row(context, {"locations": place})["snippet"] == "around"


@pytest.mark.parametrize(
    ("suppressions", "suppressed", "kind", "status"),
    [
        (None, False, None, None),
        ([], False, None, None),
        ([{"kind": "inSource"}], True, "inSource", "accepted"),
        ([{"kind": "external", "status": "accepted"}], True, "external", "accepted"),
        ([{"kind": "external", "status": "underReview"}], True, "external", "underReview"),
        ([{"kind": "external", "status": "rejected"}], False, "external", "rejected"),
        (
            [{"kind": "external", "status": "rejected"}, {"kind": "inSource"}],
            True,
            "inSource",
            "accepted",
        ),
    ],
)
def test_a_finding_is_suppressed_by_any_dismissal_that_was_not_rejected(
    context, suppressions, suppressed, kind, status
):
    found = logs.row(context, {"suppressions": suppressions})
    assert found["suppressed"] is suppressed
    assert (found["suppression_kind"], found["suppression_status"]) == (kind, status)


SEMGREP = {
    "id": "python.lang.security.dangerous-system-call",
    "defaultConfiguration": {"level": "error"},
    "properties": {
        "precision": "very-high",
        "tags": ["CWE-78: Improper Neutralization", "LOW CONFIDENCE", "security"],
    },
}
CODEQL = {
    "id": "py/sql-injection",
    "properties": {
        "tags": ["security", "external/cwe/cwe-089", "external/cwe/cwe-0564"],
        "precision": "high",
        "problem.severity": "error",
        "security-severity": "8.8",
    },
}
QUALITY = {"id": "py/unused", "properties": {"problem.severity": "recommendation"}}
TAXON = {"target": {"id": "22", "toolComponent": {"name": "CWE"}}}
TAXED = {"id": "t", "relationships": [TAXON], "properties": {"cwe": ["CWE-79", 80]}}


@pytest.mark.parametrize(
    ("rule", "properties", "told"),
    [
        (SEMGREP, {}, {"severity": None, "confidence": "LOW", "cwe": "CWE-78"}),
        (
            CODEQL,
            {},
            {
                "severity": "HIGH",
                "security_severity": 8.8,
                "confidence": "HIGH",
                "cwe": "CWE-89, CWE-564",
                "tags": "security, external/cwe/cwe-089, external/cwe/cwe-0564",
            },
        ),
        (QUALITY, {}, {"severity": "RECOMMENDATION", "security_severity": None}),
        (TAXED, {}, {"cwe": "CWE-22, CWE-79, CWE-80"}),
        (
            CODEQL,
            {"severity": "low", "confidence": 0.5},
            {"severity": "LOW", "confidence": "0.5", "security_severity": 8.8},
        ),
        ({"id": "x"}, {"security-severity": "9.1"}, {"severity": "CRITICAL"}),
        ({"id": "x"}, {"security-severity": "unknown"}, {"severity": None}),
        ({"id": "x"}, {"severity": {"nested": 1}, "tags": 3}, {"severity": None, "tags": None}),
    ],
)
def test_what_tools_say_in_properties_of_their_own_is_told_in_one_way(
    context, rule, properties, told
):
    result = {"ruleId": rule["id"], "properties": properties}
    found = logs.row(context, result, rules=(rule,))
    assert {name: found[name] for name in told} == told


@pytest.mark.parametrize(
    ("result", "fingerprint"),
    [
        ({"fingerprints": {"matchBasedId/v1": "abc_0"}}, "abc_0"),
        ({"fingerprints": {"id/v1": "old", "id/v2": "new"}}, "new"),
        ({"fingerprints": {"matchBasedId/v1": "requires login"}}, None),
        (
            {
                "partialFingerprints": {
                    "primaryLocationLineHash": "39:1",
                    "primaryLocationStartColumnFingerprint": "4",
                }
            },
            "39:1",
        ),
        ({}, None),
    ],
)
def test_a_fingerprint_is_the_tools_own_or_none(context, result, fingerprint):
    assert logs.row(context, result)["fingerprint"] == fingerprint


def test_runs_of_several_tools_in_one_log_are_told_apart(context):
    document = logs.log({"ruleId": "A"})
    document["runs"] += logs.log({"ruleId": "B", "baselineState": "new"})["runs"]
    document["runs"][1]["tool"]["driver"]["name"] = "u"
    first, second = logs.rows(context, document)
    assert (first["tool"], first["run"], first["baseline_state"]) == ("t", 0, None)
    assert (second["tool"], second["run"], second["baseline_state"]) == ("u", 1, "new")
