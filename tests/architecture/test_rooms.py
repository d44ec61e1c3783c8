"""Who may import whom, how light the light modules are, and that the wheel stands alone."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
HEAVY = {
    "torch",
    "transformers",
    "mlflow",
    "ray",
    "sklearn",
    "pandas",
    "pyarrow",
    "optuna",
    "matplotlib",
    "tensorflow",
}


def python(*arguments: str, cwd: pathlib.Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    return {name.partition(".")[0] for name in python("-c", code).split()}


def test_the_rooms_import_each_other_only_in_the_allowed_direction():
    python("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())")


@pytest.mark.parametrize(
    "module",
    [
        "protocol.client",
        "protocol.chain",
        "stages.registry",
        "agent.cli",
        "agent.cli.app",
        "agent.run.machine",
        "agent.templates",
        "agent.catalog",
    ],
)
def test_importing_it_loads_no_heavy_library(module):
    assert not loaded_by(module) & HEAVY


def test_the_program_loads_neither_the_bus_nor_rich_before_a_command_needs_them():
    assert not loaded_by("agent.cli.app") & {"nats", "rich", "structlog", "yaml"}


def test_the_contract_needs_msgspec_and_the_standard_library_alone():
    names = ["artifacts", "codec", "commands", "events", "pipelines", "problems", "subjects"]
    imports = "; ".join(
        f"import protocol.{name}" for name in [*names, "swarm", "training", "chain"]
    )
    code = (
        f"import sys; before = set(sys.modules); {imports}; "
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}; "
        "print(*(new - set(sys.stdlib_module_names)))"
    )
    assert set(python("-c", code).split()) <= {
        "protocol",
        "msgspec",
        "typing_extensions",
    }  # msgspec takes the last where it is there


def test_agent_protocol_and_stages_share_one_folder():
    code = (
        "import agent, protocol, stages; print(agent.__file__, protocol.__file__, stages.__file__)"
    )
    folders = {pathlib.Path(path).parent.parent for path in python("-c", code).split()}
    assert len(folders) == 1


def test_every_folder_of_tests_is_a_package():
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_no_function_of_ours_is_longer_than_sixty_lines():
    import ast

    long = []
    for room in ("agent", "protocol", "stages"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    if lines > 60:
                        long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {lines}")
    assert not long


def test_nothing_of_ours_pickles():
    import ast

    found = []
    for room in ("agent", "protocol", "stages"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in getattr(node, "names", [])]
                module = getattr(node, "module", None)
                if {"pickle", "cloudpickle", "joblib", "dill"} & {*names, module}:
                    found.append(str(path))
    assert not found


def test_the_built_wheel_works_from_another_folder(tmp_path):
    """The three packages are in it, with their data files, and stand without the checkout."""
    python("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    code = (
        f"import sys; sys.path.insert(0, {str(place)!r}); import agent.cli, stages.registry; "
        "assert agent.__file__.startswith(sys.path[0]); "
        "assert stages.registry.stages(); "
        "import stages.report.page as page; assert page.TEMPLATE.is_file(); "
        "from stages.frameworks import packaged; assert packaged.layout('efficientnet-lite0')"
    )
    python("-c", code, cwd=tmp_path)
