import subprocess
import sys
import types

import pytest

from stages import kit, registry, values

LISTING = """
import sys
from stages import registry
registry.stages(); registry.kinds()
heavy = {"pandas", "pyarrow", "sklearn", "ray", "mlflow", "torch", "optuna", "matplotlib"}
print(",".join(sorted(heavy & set(sys.modules))))
"""


def a_module(stage_name):
    module = types.ModuleType("elsewhere")

    @kit.stage(stage_name)
    class Echo(kit.Stage, frozen=True):
        """Give the table back."""

        def run(self, table: values.Table) -> values.Table:
            return table

    Echo.__module__ = "elsewhere"
    module.Echo = Echo
    return module


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    registry.stages()
    monkeypatch.setattr(registry, "_found", dict(registry._found))
    monkeypatch.setattr(registry, "_broken", dict(registry._broken))


def test_listing_everything_loads_no_heavy_library():
    done = subprocess.run(
        [sys.executable, "-c", LISTING], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_a_misspelt_stage_is_answered_with_names_that_look_alike():
    registry.register(a_module("test.echo"))
    with pytest.raises(registry.UnknownStage, match=r"test\.echo"):
        registry.get("test.ecko")


def test_a_registered_module_gives_its_stages():
    registry.register(a_module("test.echo"))
    assert registry.get("test.echo").outputs == (kit.Port("table", "table"),)


def test_a_name_cannot_be_taken_twice():
    registry.register(a_module("test.echo"))
    with pytest.raises(registry.NameTaken):
        registry.register(a_module("test.echo"))


def test_the_kinds_of_value_are_known_by_name():
    expected = {"table", "metrics", "list", "report", "text", "features", "model"}
    assert expected <= set(registry.kinds())


def test_a_broken_plugin_is_reported_and_not_fatal():
    point = registry.importlib.metadata.EntryPoint("torn", "no_such_module_x", registry.GROUP)
    registry._plug_in(point)
    assert "ModuleNotFoundError" in registry.broken()["torn"]
