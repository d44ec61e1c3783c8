"""The page of guarantees names tests that are there."""

from __future__ import annotations

import pathlib
import re

TESTS = pathlib.Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "guarantees.md"


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", PAGE.read_text())
    assert len(named) > 20
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE)
    ]
    assert missing == []
