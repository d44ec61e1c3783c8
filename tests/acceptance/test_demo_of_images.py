"""The demo of images: pretrained weights are worth something, and the model answers."""

from __future__ import annotations

import pytest

from tests.acceptance import conftest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.xdist_group("agent"),
]


def test_transfer_learning_is_worth_ten_points_and_the_network_answers(tmp_path):
    pretrained, random = conftest.Program(tmp_path).json("demo", "image")
    assert pretrained["metric"] == random["metric"] == "accuracy"
    assert pretrained["value"] - random["value"] >= 0.10
    assert (pretrained["registered"], pretrained["answer"]["version"]) == ("1", "1")
    assert pretrained["answer"]["said"] in set("0123456789")
    assert pretrained["answer"]["url"].endswith("/v1/models/digits:predict")
    assert random["answer"] is None
