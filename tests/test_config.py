"""Configuration: precedence, conversion, and refusals that say where a value came from."""

from __future__ import annotations

import pathlib

import pytest

from agent import config, layers


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "mlpm.toml"
    path.write_text('data_dir = "from-file"\n[nats]\nurl = "nats://file:4222"\nport = 5000\n')
    return path


def test_without_anything_the_defaults_hold():
    assert layers.load(env={}) == config.Settings()


def test_the_file_beats_the_default(file):
    settings = layers.load(file, env={})
    assert settings.nats.url == "nats://file:4222"
    assert settings.data_dir == "from-file"


def test_the_environment_beats_the_file(file):
    settings = layers.load(file, env={"MLPM_NATS__URL": "nats://env:4222"})
    assert settings.nats.url == "nats://env:4222"
    assert settings.nats.port == 5000


def test_a_flag_beats_the_environment(file):
    env = {"MLPM_NATS__URL": "nats://env:4222"}
    settings = layers.load(file, env=env, overrides=["nats.url=nats://flag:4222"])
    assert settings.nats.url == "nats://flag:4222"


def test_every_value_names_its_source(file):
    env = {"MLPM_RUNS__LEASE_S": "30"}
    loaded = layers.resolve(file, env=env, overrides=["specialist.embedded=false"])
    sources = {key: value.source for key, value in loaded.values.items()}
    assert sources["nats.url"] == str(file)
    assert sources["runs.lease_s"] == "environment variable MLPM_RUNS__LEASE_S"
    assert sources["specialist.embedded"] == "flag --set specialist.embedded"
    assert sources["logs.level"] == "default"


def test_a_yaml_file_is_read_too(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("nats:\n  url: nats://yaml:4222\naccess:\n  data_roots: [a, b]\n")
    settings = layers.load(path, env={})
    assert settings.nats.url == "nats://yaml:4222"
    assert settings.access.data_roots == ("a", "b")


def test_the_environment_can_name_the_file(file):
    assert layers.load(env={"MLPM_CONFIG": str(file)}).data_dir == "from-file"


def test_the_file_of_the_working_folder_is_found(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert layers.load(env={}).data_dir == "from-file"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("specialist.embedded=false", False),
        ("specialist.embedded=true", True),
    ],
)
def test_texts_become_booleans(override, expected):
    assert layers.load(env={}, overrides=[override]).specialist.embedded is expected


def test_texts_become_numbers_lists_and_nothing():
    settings = layers.load(
        env={"MLPM_RAY__CPUS": "null"},
        overrides=["access.allowed_hosts=a.example, b.example", "price_per_cpu_hour=0.5"],
    )
    assert settings.ray.cpus is None
    assert settings.access.allowed_hosts == ("a.example", "b.example")
    assert settings.price_per_cpu_hour == 0.5


@pytest.mark.parametrize(
    ("env", "overrides", "source"),
    [
        ({"MLPM_NATS__URLL": "x"}, [], "environment variable MLPM_NATS__URLL"),
        ({}, ["nats.urll=x"], "flag --set nats.urll"),
    ],
)
def test_an_unknown_key_is_refused_with_its_source_and_a_suggestion(env, overrides, source):
    with pytest.raises(layers.UnknownKey) as raised:
        layers.load(env=env, overrides=overrides)
    assert raised.value.suggestion == "nats.url"
    assert raised.value.source == source


def test_an_unknown_key_of_a_file_is_refused_with_the_files_name(tmp_path):
    path = tmp_path / "mlpm.toml"
    path.write_text('[nat]\nurl = "x"\n')
    with pytest.raises(layers.UnknownKey, match=r"nat\.url.*mlpm\.toml.*nats\.url"):
        layers.load(path, env={})


@pytest.mark.parametrize(
    "override", ["nats.port=many", "nats.replicas=9", "logs.level=loud", "runs.max_active=-1"]
)
def test_a_value_of_the_wrong_type_or_range_is_refused(override):
    with pytest.raises(config.BadValue, match=override.split("=")[0]):
        layers.load(env={}, overrides=[override])


def test_a_file_gets_no_leniency_with_types(tmp_path):
    path = tmp_path / "mlpm.toml"
    path.write_text('[nats]\nport = "4222"\n')
    with pytest.raises(config.BadValue, match=r"nats\.port"):
        layers.load(path, env={})


def test_an_override_without_an_equals_sign_is_refused():
    with pytest.raises(layers.MalformedOverride):
        layers.load(env={}, overrides=["nats.url"])


@pytest.mark.parametrize(
    ("name", "text"), [("a.toml", "not toml ["), ("a.yaml", "a: ["), ("b.yaml", "- 1")]
)
def test_a_broken_file_is_refused_with_its_name(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(layers.FileUnreadable, match=name):
        layers.load(path, env={})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(layers.FileUnreadable):
        layers.load(tmp_path / "absent.toml", env={})


def test_passwords_inside_urls_are_hidden():
    loaded = layers.resolve(env={}, overrides=["nats.url=nats://user:secret@host:4222"])
    assert loaded.shown()["nats.url"].value == "nats://***@host:4222"
    assert loaded.settings.nats.url == "nats://user:secret@host:4222"
