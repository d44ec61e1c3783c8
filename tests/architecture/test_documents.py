"""The documents that are written from the code are current, and their links lead somewhere."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pytest

from agent import catalog, templates
from agent.cli import files
from protocol import codec, commands
from scripts import draw_settings

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_the_page_of_settings_is_current():
    assert draw_settings.PAGE.read_text() == draw_settings.page(), "run: make docs"


def test_the_pages_of_stages_and_templates_are_current():
    code = "from scripts import draw_stages as d; print(*(p.name for p, t in d.pages().items() if "
    code += "p.read_text() != t))"  # by itself: other tests register stages of their own
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.split() == [], "run: make docs"


def test_every_stage_is_summed_up_in_a_sentence():
    for card in catalog.Catalog().cards():
        assert card.summary.endswith("."), card.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    targets = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert not [link for link in targets if not (page.parent / link).exists()]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_request_that_is_accepted(example):
    request = codec.decode(json.dumps(files.read(example)).encode(), commands.PipelineRequest)
    if request.pipeline is not None:
        assert catalog.Catalog().check(request.pipeline) == []
    else:
        templates.source(request.template, request.params)
