from __future__ import annotations

import html.parser
import pathlib
import re

import pytest

from stages import kit, models, values
from stages.report import page, sections

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br", "hr", "link", "img", "input", "use", "path"}


class Balanced(html.parser.HTMLParser):
    """Checks that what is opened is closed, and notes the tags."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.broken = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID and self.open.pop() != tag:
            self.broken.append(tag)


def write(context, **inputs):
    ports = [port.name for port in page.Html.__stage__.inputs]
    return page.Html(EVIL, EVIL).run(*(inputs.get(port) for port in ports), context).text


def forecast():
    series = {
        "time": [EVIL, *(f"2024-01-{day:02} 00:00:00" for day in range(2, 31))],
        "actual": [float(value) for value in range(30)],
        "predicted": [value + 0.5 for value in range(30)],
        "baseline": [0.0] * 30,
    }
    return values.Metrics(
        {"mae": 0.5, "baseline_mae": 9.0},
        {
            "task": "forecast",
            "target": EVIL,
            "baseline": {"name": EVIL, "values": {"mae": 9.0}},
            "intervals": {"mae": [0.4, 0.6]},
            "series": series,
            "importances": [{"feature": EVIL, "mean": 0.5, "std": 0.1}],
            "trials": [{"number": n, "params": {EVIL: EVIL}, "score": n, "std": 0} for n in (0, 1)],
        },
    )


def classification():
    curve = [0.0, 0.5, 1.0]
    return values.Metrics(
        {"f1_macro": 0.8},
        {
            "task": "classification",
            "target": "label",
            "confusion": {"labels": [EVIL, "b"], "matrix": [[5, 1], [0, 4]]},
            "roc": {"fpr": curve, "tpr": curve, "auc": 0.5},
            "pr": {"precision": curve, "recall": curve, "ap": 0.5},
        },
    )


@pytest.fixture
def context(tmp_path: pathlib.Path) -> kit.Context:
    return kit.Context(workdir=tmp_path, lineage={EVIL: EVIL})


@pytest.fixture
def full(context):
    report = values.Report(
        {"title": EVIL, "summary": EVIL, "columns": [{EVIL: EVIL}], EVIL: [EVIL]}
    )
    card = models.ModelCard("sklearn", EVIL, "forecast", EVIL, [models.Column(EVIL, "double")])
    rows = values.Table.from_pandas(__import__("pandas").DataFrame({EVIL: [EVIL]}))
    return write(
        context,
        metrics=forecast(),
        comparison=values.Metrics({"win": 1.0}, {"metric": EVIL, "intervals": {EVIL: [0, 1]}}),
        model=models.Model(card, b""),
        profile=report,
        predictions=rows,
    )


def test_nothing_from_the_data_becomes_markup(full, context):
    for text in (full, write(context, metrics=classification())):
        assert EVIL not in text
        assert "<script" not in text.lower()
        assert "&lt;script&gt;" in text


def test_the_page_needs_nothing_beside_itself(full):
    parser = Balanced()
    parser.feed(full)
    loading = {"script", "link", "img", "iframe", "object", "embed", "image"}
    assert not loading & {tag for tag, _ in parser.seen}
    links = [a for _, attrs in parser.seen for k, a in attrs.items() if k.endswith(("href", "src"))]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import", full)


def test_the_page_is_well_formed_and_its_ids_are_unique(full):
    parser = Balanced()
    parser.feed(full)
    assert parser.broken == []
    assert parser.open == []
    ids = [attrs["id"] for _, attrs in parser.seen if "id" in attrs]
    assert ids
    assert len(set(ids)) == len(ids)
    assert {ref[1:] for ref in re.findall(r'(?<=href=")#[^"]+', full)} <= set(ids)


def test_every_plot_can_be_heard(full, context):
    for text in (full, write(context, metrics=classification())):
        drawings = re.findall(r"<svg[^>]*>", text)
        assert drawings
        assert all('role="img"' in tag and 'aria-label="' in tag for tag in drawings)


def test_a_section_is_there_only_with_its_data(context):
    text = write(context)
    assert "<svg" not in text
    for absent in ("Confusion", "Search:", "Comparison", "<h2>Model", "First predictions"):
        assert absent not in text
    assert "Confusion matrix" in write(context, metrics=classification())


def test_equal_data_gives_equal_bytes(context):
    assert write(context, metrics=forecast()) == write(context, metrics=forecast())


def test_the_verdict_knows_which_way_is_better():
    given = values.Metrics(
        {"mae": 1.0, "r2": 0.5, "accuracy": 0.9},
        {"baseline": {"name": "x", "values": {"mae": 2.0, "r2": 0.9, "accuracy": 0.9}}},
    )
    verdicts = {row["name"]: row["verdict"] for row in sections.headline(given)}
    assert verdicts == {"mae": "better", "r2": "worse", "accuracy": "equal"}
