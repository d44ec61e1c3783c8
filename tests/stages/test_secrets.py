"""A secret is read where it is kept, and shown nowhere."""

import msgspec
import pytest

from stages import secrets


def test_a_secret_is_read_from_the_environment_and_from_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("A_KEY", "hush")
    (tmp_path / "key").write_text("quiet\n")
    reference = secrets.Secret(env="A_KEY")
    assert reference.read() == "hush"
    assert secrets.Secret(file=str(tmp_path / "key")).read() == "quiet"
    assert "hush" not in repr(reference)


def test_a_missing_secret_names_its_place():
    with pytest.raises(secrets.NoSecret, match="NOT_SET_ANYWHERE"):
        secrets.Secret(env="NOT_SET_ANYWHERE").read("$.password")


@pytest.mark.parametrize("data", [{}, {"env": "A", "file": "b"}, {"value": "hush"}])
def test_a_reference_names_exactly_one_place(data):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, secrets.Secret)


def test_the_longest_secret_is_masked_first():
    assert secrets.scrub("x abcd y ab", "ab", "abcd", "") == "x ••• y •••"
