"""Owns the stores that the tests of artifacts use."""

from __future__ import annotations

import uuid

import pytest

from agent.artifacts import store


@pytest.fixture
def local(tmp_path):
    """Give a store on this machine's disk."""
    return store.Store((tmp_path / "store").as_uri(), tmp_path / "copies").make()


@pytest.fixture
def remote(tmp_path):
    """Give a store elsewhere; what is read of it is copied here."""
    return store.Store(f"memory://{uuid.uuid4().hex}/store", tmp_path / "copies")


@pytest.fixture(params=["local", "remote"])
def kept(request):
    return request.getfixturevalue(request.param)
