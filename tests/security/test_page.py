"""The command and the page that tell of the permissions say what the server is given."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from protocol import accounts, credentials, permissions
from scripts import draw_permissions
from stages import kit
from stages.ingest import jetstream
from tests.security import locked


def mlpm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "permissions", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_page_of_permissions_is_current():
    assert draw_permissions.PAGE.read_text() == draw_permissions.page(), "run: make docs"


def test_the_command_prints_the_configuration_that_the_server_is_tried_with(keys):
    given = [word for one in keys.users for word in ("--key", f"{one.role.name}={one.nkey}")]
    assert mlpm(*given).stdout == accounts.configuration(keys.users)


def test_the_command_prints_one_role_as_claims_of_a_jwt():
    (told,) = json.loads(mlpm("worker", "--format", "json").stdout)["users"]
    assert told["sub"] == {"allow": ["codeguardian.ml.worker.*"]}
    assert told["pub"] == {}
    assert told["resp"] == {"max": 1, "ttl": 86_400 * 10**9}


def test_a_user_gets_an_inbox_of_its_own_and_not_the_one_of_the_role():
    text = mlpm("orchestrator", "--key", "orchestrator:ada=UABC").stdout
    assert '"_INBOX.ada.>"' in text
    assert "_INBOX.orchestrator" not in text


@pytest.mark.parametrize(
    "arguments", [["boss"], ["--key", "agent"], ["--key", "agent=SUSECRET"], ["--key", "boss=UABC"]]
)
def test_what_is_no_role_or_no_public_key_is_wrong_usage(arguments):
    done = mlpm(*arguments)
    assert done.returncode == 2
    assert "SUSECRET" not in done.stderr


@pytest.mark.parametrize("reads", [(), ("LOGS",)])
async def test_a_worker_reads_the_streams_that_it_is_given_and_no_other(keys, tmp_path, reads):
    users = [one for one in keys.users if one.role.name != permissions.WORKER]
    (former,) = [one for one in keys.users if one.role.name == permissions.WORKER]
    extras = permissions.Extras(reads=reads)
    worker = permissions.role(permissions.WORKER, locked.NAMES, extras=extras)
    boss = permissions.Role(
        name="boss", about="All.", account=permissions.INSIDE, publish=(">",), subscribe=(">",)
    )
    seed = tmp_path / "boss.nk"
    users += [accounts.User(worker, former.nkey), accounts.User(boss, locked.make_seed(seed))]
    async with locked.serving(tmp_path / "nats", accounts.configuration(users)) as url:
        js = await credentials.connect(url, credentials.Credentials(nkey_seed=str(seed)))
        await js.jetstream().add_stream(name="LOGS", subjects=["logs.*"])
        await js.jetstream().add_stream(name="OTHER", subjects=["other.*"])
        await js.jetstream().publish("logs.a", b"one")
        await js.close()
        services = kit.Services(nats_url=url, nats_nkey_seed=keys.seeds[permissions.WORKER])

        async def read(subject: str, stream: str) -> list[bytes]:
            async with jetstream.connected(services) as reader:
                held = await reader.find(subject, stream)
                return [
                    one.data async for one in reader.messages(held, subject, None, lambda: None)
                ]

        if reads:
            assert await read("logs.a", "LOGS") == [b"one"]
        else:
            with pytest.raises(jetstream.NotPermitted):
                await read("logs.a", "LOGS")
        with pytest.raises(jetstream.NotPermitted):
            await read("other.a", "OTHER")
