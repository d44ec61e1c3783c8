"""Owns what a specialist needs to be tried: a nats-server, a Ray head, the process, its client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import msgspec
import nats
import psutil
import pytest

from agent.artifacts import store
from protocol import training

REPLIES = training.TrainingReply


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def end(process: subprocess.Popen) -> None:
    """End a process and everything it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGCONT)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait(10)


@pytest.fixture(scope="session")
def server_url():
    port = free_port()
    program = shutil.which("nats-server") or str(
        pathlib.Path(sys.executable).with_name("nats-server")
    )
    process = subprocess.Popen(
        [program, "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            break
    yield f"nats://127.0.0.1:{port}"
    end(process)


class Process:
    """A specialist as a process of its own, with its own local Ray."""

    def __init__(self, url: str, folder: pathlib.Path, prefix: str) -> None:
        self._command = [sys.executable, "-m", "agent.specialist", "--nats-url", url]
        self._command += ["--data-dir", str(folder), "--prefix", prefix, "--ray-cpus", "2"]
        self._log = folder.parent / f"{prefix}.log"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            before = self._log.stat().st_size
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log, env=environment)
        until = time.monotonic() + 60
        while b"specialist.ready" not in self._log.read_bytes()[before:]:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def trial_workers(self) -> list[psutil.Process]:
        """Find the Ray workers that are at a trial now."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in found if "ray::score" in " ".join(p.cmdline())]


@pytest.fixture(scope="session")
def specialist(server_url, tmp_path_factory):
    one = Process(server_url, tmp_path_factory.mktemp("specialist") / "data", "codeguardian")
    one.start()
    yield one
    end(one.process)


class Asker:
    """What an agent does on the bus, in a few lines."""

    def __init__(self, client, folder: pathlib.Path, prefix: str = "codeguardian") -> None:
        self.client = client
        self.prefix = prefix
        self.uri = folder.as_uri()
        self.store = store.Store(self.uri, str(folder / "copies")).make()
        self._inbox = client.new_inbox()
        self._answers: asyncio.Queue = asyncio.Queue()

    async def open(self):
        await self.client.subscribe(self._inbox, cb=self._answers.put)

    def request(self, training_id, table, **changes):
        ref = self.store.put(table)
        body = {
            "training_id": training_id,
            "framework": "sklearn",
            "model": "LogisticRegression",
            "target": "target",
            "train": msgspec.to_builtins(ref),
            "artifacts_uri": self.uri,
        }
        return body | changes

    async def send(self, body, subject="training.request"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.client.publish(f"{self.prefix}.ml.{subject}", data, reply=self._inbox)

    async def next(self, patience=30.0, kind=REPLIES):
        async with asyncio.timeout(patience):
            return msgspec.json.decode((await self._answers.get()).data, type=kind)

    async def until(self, kind, patience=60.0):
        """Read on to an answer of this kind; give it and all that came before."""
        seen = []
        async with asyncio.timeout(patience):
            while True:
                reply = await self.next(patience)
                if isinstance(reply, kind):
                    return reply, seen
                assert not isinstance(reply, training.TrainingFailed), reply
                seen.append(reply)

    async def end(self, body):
        await self.send(body)
        return (await self.until(training.TrainingResult | training.TrainingFailed))[0]


@pytest.fixture
async def asker(server_url, specialist, tmp_path):  # noqa: ARG001 - it must run
    client = await nats.connect(server_url)
    one = Asker(client, tmp_path / "artifacts")
    await one.open()
    yield one
    await client.close()
