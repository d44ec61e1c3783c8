"""Owns a nats-server that is locked as `mlpm permissions` says, and the keys of its users."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib

import msgspec
import nkeys

from agent import children
from agent.bus import server
from protocol import accounts, credentials, permissions, subjects

NAMES = subjects.Subjects()


class Keys(msgspec.Struct):
    """A file with a seed for each role, and the users that they are."""

    seeds: dict[str, str]
    users: list[accounts.User]

    def who(self, role: str, **more) -> credentials.Credentials:
        given = {"nkey_seed": self.seeds[role], "inbox": permissions.inbox(role)}
        return credentials.Credentials(**(given | more))


def make_keys(folder: pathlib.Path, extras: permissions.Extras = permissions.NO_EXTRAS) -> Keys:
    keys = Keys({}, [])
    for role in permissions.table(NAMES, extras):
        path = folder / f"{role.name}.nk"
        keys.seeds[role.name] = str(path)
        keys.users.append(accounts.User(role, make_seed(path)))
    return keys


def make_seed(path: pathlib.Path, mode: int = 0o600) -> str:
    """Write a seed to a file, and give the public key."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    path.write_bytes(seed)
    path.chmod(mode)
    return nkeys.from_seed(bytearray(seed)).public_key.decode()


@contextlib.asynccontextmanager
async def serving(folder: pathlib.Path, text: str):
    """Run a nats-server with JetStream and a configuration; give its URL."""
    config, log = _write(folder, text), folder / "nats.log"
    process = await children.start([server.find(), "-c", str(config)], log)
    try:
        async with asyncio.timeout(20):
            url = await _url(folder / f"nats-server_{process.pid}.ports", process, log)
        yield url
    finally:
        await children.stop(process)


def _write(folder: pathlib.Path, text: str) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    store, ports = json.dumps(str(folder / "js")), json.dumps(str(folder))
    head = 'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\n'
    head += f"ports_file_dir: {ports}\njetstream {{ store_dir: {store} }}\n"
    config = folder / "nats.conf"
    config.write_text(head + text)
    return config


async def _url(ports: pathlib.Path, process, log: pathlib.Path) -> str:
    while not (text := _read(ports)):
        assert process.returncode is None, _read(log)
        await asyncio.sleep(0.02)
    return json.loads(text)["nats"][0]


def _read(path: pathlib.Path) -> str:
    return path.read_text() if path.exists() else ""


class Ear:
    """Collects what the server complains about."""

    def __init__(self) -> None:
        self.complaints: list[str] = []

    async def hear(self, error: Exception) -> None:
        self.complaints.append(str(error))

    def take(self) -> list[str]:
        taken, self.complaints = self.complaints, []
        return taken
