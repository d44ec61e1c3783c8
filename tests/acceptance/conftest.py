"""A real agent, started as a person starts it, in a folder of its own."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


class Program:
    """Calls `mlpm` in one folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLPM_")}
        self.env = clean | {"PYTHONPATH": str(ROOT)}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agent", *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )

    def json(self, *arguments: str):
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def up(self) -> subprocess.Popen[str]:
        """Start the agent and wait until it says that it is ready."""
        with (self.folder / "up.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "agent", "up", "--json", "--set", "ray.cpus=2"],
                cwd=self.folder,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        return process


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Give the program and a running agent; at the end the agent stops on SIGTERM."""
    folder = tmp_path_factory.mktemp("agent")
    shutil.copytree(EXAMPLES, folder / "docs" / "examples")
    mlpm = Program(folder)
    process = mlpm.up()
    yield mlpm
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    assert not (folder / ".mlpm" / "agent.json").exists()
