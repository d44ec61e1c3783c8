"""Owns what the digest of a stage's code depends on, and what it does not."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
STAGE = """
from stages import kit, values
import plug.inner
from plug import used
from . import beside

@kit.stage("plug.do")
class Do(kit.Stage, frozen=True):
    def run(self) -> values.Report:
        from plug.deep import lazy
        return values.Report({"n": used.N + lazy.N})
"""
HERE = """
from stages import kit, values

@kit.stage("here.do")
class Do(kit.Stage, frozen=True):
    def run(self) -> values.Report:
        return values.Report({})
"""
PLUGIN = {
    "plug/__init__.py": "",
    "plug/work.py": STAGE,
    "plug/used.py": "from plug import further\nN = 1\n",
    "plug/further.py": "import json\n",
    "plug/beside.py": "from .inner import core as _\n",
    "plug/inner/__init__.py": "from . import core\n",
    "plug/inner/core.py": "def f():\n    import plug.hidden\n",
    "plug/hidden.py": "",
    "plug/deep/__init__.py": "",
    "plug/deep/lazy.py": "N = 2\n",
    "plug/page.html": "<p>",
    "plug/deep/words.txt": "a b",
    "plug/unrelated.py": "",
    "plug/inner/aside.py": "",
    "plug/apart/__init__.py": "",
    "plug/apart/data.csv": "1",
    "other/__init__.py": "",
}
TELL = "from agent.artifacts import sources\nfrom plug import work\n"
PRINT = "print(sources.code_digest(work.Do.__stage__))\n"
FREEZE = "sources.freeze([work.Do.__stage__])\n"
WAIT = "print('loaded', flush=True)\ninput()\n"


@pytest.fixture
def folder(tmp_path):
    for name, text in PLUGIN.items():
        write(tmp_path / name, text)
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def start(folder, code):
    """Start a process of its own: a process reads its code once."""
    env = dict(os.environ) | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    return subprocess.Popen(
        [sys.executable, "-B", "-c", code],
        env=env,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process, text=""):
    out, _ = process.communicate(text, timeout=60)
    assert process.returncode == 0
    return out.split()


def digest(folder, code=TELL + PRINT):
    (found,) = said(start(folder, code))
    return found


@pytest.mark.parametrize(
    "name",
    [
        "plug/__init__.py",  # runs when anything of the package is imported
        "plug/work.py",
        "plug/used.py",
        "plug/further.py",  # through `used`
        "plug/beside.py",  # a relative import
        "plug/inner/__init__.py",
        "plug/inner/core.py",  # a relative import in a package
        "plug/hidden.py",  # inside a function, three modules away
        "plug/deep/lazy.py",  # inside `run`
        "plug/page.html",
        "plug/deep/words.txt",
    ],
)
def test_the_digest_changes_with_what_the_stage_uses(folder, name):
    before = digest(folder)
    write(folder / name, PLUGIN[name] + "\n# changed\n")
    assert digest(folder) != before


@pytest.mark.parametrize(
    "name",
    [
        "plug/unrelated.py",
        "plug/inner/aside.py",
        "plug/apart/__init__.py",
        "plug/apart/data.csv",
        "other/__init__.py",
        "plug/new.py",
        "plug/__pycache__/work.cpython-311.pyc",
        "plug/.work.py.swp",
        "notes.txt",
    ],
)
def test_the_digest_does_not_change_with_anything_else(folder, name):
    before = digest(folder)
    write(folder / name, PLUGIN.get(name, "") + "# changed\n")
    assert digest(folder) == before


def test_the_digest_is_the_same_wherever_the_code_lies(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name, text in PLUGIN.items():
        write(elsewhere / name, text)
    assert digest(elsewhere) == digest(folder)


def test_nothing_is_imported_to_find_out(folder):
    code = TELL + PRINT + "import sys; print('plug.deep.lazy' in sys.modules)"
    assert said(start(folder, code))[1] == "False"


def test_code_that_cannot_be_parsed_counts_by_its_text(folder):
    write(folder / "plug/deep/lazy.py", "def broken(:\n")
    before = digest(folder)
    write(folder / "plug/deep/lazy.py", "def broken(::\n")
    assert digest(folder) != before


def test_modules_that_import_each_other_are_digested(folder):
    write(folder / "plug/further.py", "def f():\n    import plug.used, plug.work\n")
    assert len(digest(folder)) == 16


def test_a_loaded_process_goes_by_the_code_that_it_loaded(folder):
    before = digest(folder)
    frozen = start(folder, TELL + FREEZE + WAIT + PRINT)
    thawed = start(folder, TELL + WAIT + PRINT)
    for process in (frozen, thawed):
        assert process.stdout.readline() == "loaded\n"
    write(folder / "plug/used.py", "N = 3\n")
    write(folder / "plug/page.html", "<b>")
    assert said(frozen, "\n") == [before]
    assert said(thawed, "\n") == [digest(folder)] != [before]


def test_code_that_lies_in_no_file_is_known_to_its_own_process_alone(folder):
    twice = PRINT.replace("work.", "") * 2
    code = "from agent.artifacts import sources\n" + HERE + twice
    first, again = said(start(folder, code))
    assert first == again
    assert said(start(folder, code))[0] != first
