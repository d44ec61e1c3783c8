"""What the demo can show, and the data that it makes for it."""

from __future__ import annotations

import collections
import csv
import re

import pytest
from PIL import Image

from agent import templates
from agent.demo import pictures, prose, topics


def test_a_word_means_topics():
    assert topics.chosen("") == topics.USUAL
    assert topics.chosen("image") == ("image",)
    assert topics.chosen("all") == tuple(topics.TOPICS)
    with pytest.raises(KeyError):
        topics.chosen("weather")


def test_digits_are_real_and_written_once(tmp_path):
    folder = pictures.write(tmp_path)
    files = sorted(folder.rglob("*.png"))
    assert len(files) == pictures.COUNT
    assert {file.parent.name for file in files} == set("0123456789")
    with Image.open(files[0]) as image:
        assert image.size == (pictures.SIDE, pictures.SIDE)
    written = files[0].stat().st_mtime_ns
    assert pictures.write(tmp_path) == folder
    assert files[0].stat().st_mtime_ns == written


def test_texts_are_of_each_library_and_do_not_name_it(tmp_path):
    with prose.write(tmp_path).open(encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    assert collections.Counter(row["library"] for row in rows) == dict.fromkeys(
        prose.LIBRARIES, prose.EACH
    )
    names = re.compile(r"\b(numpy|np|pandas|pd|sklearn|scikit-learn|torch)\b", re.IGNORECASE)
    assert not [row for row in rows if names.search(row["text"])]
    assert prose.texts("numpy") == [row["text"] for row in rows if row["library"] == "numpy"]


@pytest.mark.parametrize("name", ["forecast", "image", "text"])
def test_requests_are_of_templates_that_are_there(tmp_path, name):
    for order in topics.TOPICS[name].orders(tmp_path):
        assert templates.source(order.template, order.params) is not None
