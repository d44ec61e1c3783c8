"""The demo's data: labels come from marks, and the marks are gone from what the model sees."""

from __future__ import annotations

import itertools
import json

import pytest

from agent.demo import findings, series


@pytest.mark.parametrize(
    ("rule", "line", "marked"),
    [
        ("B101", "assert x  # nosec", True),
        ("B101", "assert x  # nosec B101", True),
        ("B101", "assert x  # nosec B102, B101", True),
        ("B101", "assert x  # nosec B102", False),
        ("B101", "assert x  # noqa: S101", True),
        ("B101", "assert x  # noqa: E501, S101 - fine", True),
        ("B101", "assert x  # noqa: S102", False),
        ("B101", "assert x  # noqa", False),
        ("B101", "assert x", False),
    ],
)
def test_a_mark_counts_only_for_the_rule_it_is_about(rule, line, marked):
    assert findings.is_marked(rule, [line]) is marked


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("run(x)  # nosec - trusted", "run(x)"),
        ('f("#1")  # noqa: S603', 'f("#1")'),
        ('""")  # noqa: S608', '""")'),
        ("x = 1", "x = 1"),
    ],
)
def test_comments_are_taken_out_of_the_code(line, kept):
    assert findings.without_comments(line) == kept


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    return findings.write(folder)


@pytest.fixture(scope="module")
def found(scanned):
    return json.loads(scanned.read_text())["runs"][0]["results"]


def test_both_classes_are_there_in_earnest(found):
    dismissed = sum(bool(result["suppressions"]) for result in found)
    assert dismissed >= 100
    assert len(found) - dismissed >= 200


def test_no_snippet_holds_a_mark(scanned):
    text = scanned.read_text()
    assert "nosec" not in text
    assert "noqa" not in text


def test_places_do_not_depend_on_the_machine(found):
    places = {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in found}
    assert not any(place.startswith(("/", "file:")) for place in places)


def test_a_second_scan_of_the_same_versions_is_not_made(scanned):
    before = scanned.stat().st_mtime_ns
    assert findings.write(scanned.parent) == scanned
    assert scanned.stat().st_mtime_ns == before


def test_the_series_is_regular_and_its_gaps_are_kept():
    weeks = series.weeks()
    steps = {later[0] - earlier[0] for earlier, later in itertools.pairwise(weeks)}
    assert steps == {series.WEEK}
    assert 0 < sum(not value for _, value in weeks) < 100
    assert len(weeks) > 2000
