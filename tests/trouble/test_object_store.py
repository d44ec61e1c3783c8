"""An object store elsewhere that is down: the store says that it is away, and goes on after."""

from __future__ import annotations

import uuid

import moto.server
import pytest
import s3fs

from agent.artifacts import errors, store
from agent.execution import faults
from stages import values


def start(port=0):
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    server.start()
    return server


@pytest.fixture
def server(monkeypatch):
    """Give an S3 of this process's own; the environment tells s3fs where it is."""
    one = start()
    host, port = one.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    return one


def text(letter):
    return values.Text(letter * 5000)


def test_an_object_store_that_is_down_is_away_and_then_back(server, tmp_path):
    bucket = f"models-{uuid.uuid4().hex}"
    kept = store.Store(f"s3://{bucket}/mlpm", tmp_path)
    try:
        with pytest.raises(errors.Unreachable):  # the bucket is not there
            kept.put(text("x"))
        s3fs.S3FileSystem().mkdir(bucket)
        ref = kept.put(text("x"))
    finally:
        _, port = server.get_host_and_port()
        server.stop()
    with pytest.raises(errors.Unreachable) as away:
        kept.put(text("y"))
    problem = faults.problem_of(away.value)
    assert (problem.code, problem.retryable) == ("unavailable", True)
    assert bucket in problem.message
    with pytest.raises(errors.Unreachable):
        kept.get(ref)
    again = start(port)
    try:
        assert kept.get(ref).text == text("x").text
        assert kept.get(kept.put(text("y"))).text == text("y").text
    finally:
        again.stop()
