"""A secret is read where it is kept, if requests may refer to it, and shown nowhere."""

import msgspec
import pytest

from stages import kit, secrets


def allowing(*names):
    return kit.Services(secrets=names)


def test_a_secret_is_read_from_the_environment_and_from_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("MLPM_SECRET_KEY", "hush")
    (tmp_path / "key").write_text("quiet\n")
    reference = secrets.Secret(env="MLPM_SECRET_KEY")
    assert reference.read(kit.Services()) == "hush"
    kept = secrets.Secret(file=str(tmp_path / "key"))
    assert kept.read(allowing(f"{tmp_path}/*")) == "quiet"
    assert "hush" not in repr(reference)


def test_a_missing_secret_names_its_place():
    with pytest.raises(secrets.NoSecret, match="MLPM_SECRET_NOT_SET"):
        secrets.Secret(env="MLPM_SECRET_NOT_SET").read(kit.Services(), "$.password")


@pytest.mark.parametrize(
    "reference",
    [
        {"env": "AWS_SECRET_ACCESS_KEY"},
        {"env": "mlpm_secret_key"},
        {"file": "/etc/shadow"},
        {"file": "/run/secrets/../../etc/shadow"},
    ],
)
def test_what_the_configuration_does_not_name_cannot_be_referred_to(monkeypatch, reference):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with pytest.raises(secrets.SecretRefused, match="may not be referred to") as refused:
        msgspec.convert(reference, secrets.Secret).read(kit.Services(), "$.password")
    assert (refused.value.code, refused.value.path) == ("not_allowed", "$.password")
    assert "access.secrets" in refused.value.hint


@pytest.mark.parametrize("data", [{}, {"env": "A", "file": "b"}, {"value": "hush"}])
def test_a_reference_names_exactly_one_place(data):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, secrets.Secret)


def test_the_longest_secret_is_masked_first():
    assert secrets.scrub("x abcd y ab", "ab", "abcd", "") == "x ••• y •••"
