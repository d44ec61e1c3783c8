"""Who gets into the bus, and what is said where somebody does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import stat

import nats.errors
import pytest
import trustme

from agent import address, config
from agent.bus import connection, server
from protocol import credentials
from tests.security import locked

SECRET = "p%40ss-w0rd"  # as it stands in a URL; `p@ss-w0rd` on the bus


class Papers:
    """An authority, a server's certificate and a client's, as files."""

    def __init__(self, folder: pathlib.Path) -> None:
        authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        self.server = self._issue(folder / "server", authority.issue_cert("127.0.0.1", "localhost"))
        self.client = self._issue(folder / "client", authority.issue_cert("agent@mlpm"))
        stranger = trustme.CA()
        self.other_ca = str(folder / "other.pem")
        stranger.cert_pem.write_to_path(self.other_ca)
        self.stranger = self._issue(folder / "stranger", stranger.issue_cert("agent@mlpm"))

    @staticmethod
    def _issue(base: pathlib.Path, issued: trustme.LeafCert) -> tuple[str, str]:
        certificate, key = base.with_suffix(".pem"), base.with_suffix(".key")
        issued.cert_chain_pems[0].write_to_path(certificate)
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key, append=True)
        return str(certificate), str(key)

    def tls(self, *, verify: bool = False) -> str:
        certificate, key = map(json.dumps, self.server)
        trust = f"ca_file: {json.dumps(self.ca)}, verify: true" if verify else ""
        return f"tls {{ cert_file: {certificate}, key_file: {key}, {trust} }}\n"


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return Papers(tmp_path_factory.mktemp("papers"))


@contextlib.asynccontextmanager
async def connected(url: str, **settings):
    async with asyncio.timeout(20):
        client = await connection.connect(url, config.Nats(**settings), "test")
    try:
        await client.flush()
        yield client
    finally:
        await client.close()


async def refused(url: str, kind=credentials.CredentialsError, **settings) -> str:
    """Try to get in, and give the reason why not."""
    with pytest.raises(kind) as caught:
        async with connected(url, **settings):
            pass
    return str(caught.value)


async def test_an_nkey_lets_in_and_its_lack_is_said_at_once(tmp_path):
    seed, other = tmp_path / "agent.nk", tmp_path / "other.nk"
    known = locked.make_seed(seed)
    locked.make_seed(other)
    text = f"authorization {{ users: [ {{ nkey: {known} }} ] }}"
    async with locked.serving(tmp_path / "nats", text) as url:
        async with connected(url, nkey_seed=str(seed)):
            pass
        for wrong in ({}, {"nkey_seed": str(other)}):
            said = await refused(url, credentials.Refused, **wrong)
            assert url in said
            assert "key" in said


async def test_a_user_and_a_token_inside_the_url_let_in_and_are_never_shown(tmp_path):
    text = 'authorization { user: "ada", password: "p@ss-w0rd" }'
    async with locked.serving(tmp_path / "user", text) as url:
        async with connected(url.replace("//", f"//ada:{SECRET}@")):
            pass
        said = await refused(url.replace("//", "//ada:wr0ng-word@"))
        assert "wr0ng" not in said
        assert url in said
    text = 'authorization { token: "t0/ken" }'
    async with (
        locked.serving(tmp_path / "token", text) as url,
        connected(url.replace("//", "//t0%2Fken@")),
    ):
        pass


async def test_the_password_goes_to_every_server_of_the_url(tmp_path):
    text = 'authorization { user: "ada", password: "p@ss-w0rd" }'
    async with locked.serving(tmp_path / "nats", text) as url:
        both = f"nats://ada:{SECRET}@127.0.0.1:9,{url}"
        async with connected(both) as client:
            assert client.connected_url.port == int(url.rsplit(":", 1)[1])


def test_a_url_is_shown_without_what_lets_in():
    urls = "nats://ada:p@ss@a:1, tls://token@b:2,c:3"
    assert credentials.plain(urls) == "nats://a:1, tls://b:2,c:3"
    assert "ss" not in config.redact(urls)
    assert "token" not in config.redact(urls)


async def test_a_server_is_trusted_by_its_authority_alone(tmp_path, papers):
    async with locked.serving(tmp_path / "nats", papers.tls()) as url:
        async with connected(url, tls_ca=papers.ca) as client:
            assert client._transport._io_writer.get_extra_info("ssl_object") is not None
        said = await refused(url, credentials.Untrusted, tls_ca=papers.other_ca)
        assert "self-signed" in said or "unable to get" in said
        await refused(url, credentials.Untrusted)


async def test_mutual_tls_wants_a_certificate_of_the_same_authority(tmp_path, papers):
    certificate, key = papers.client
    async with locked.serving(tmp_path / "nats", papers.tls(verify=True)) as url:
        async with connected(url, tls_ca=papers.ca, tls_cert=certificate, tls_key=key):
            pass
        stranger, its_key = papers.stranger
        for wrong in ({}, {"tls_cert": stranger, "tls_key": its_key}):
            await refused(url, tls_ca=papers.ca, **wrong)


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_nothing_is_said_to_a_server_that_asks_for_no_tls_where_it_is_wanted(
    scheme, papers, tmp_path
):
    """Whoever sits between could take the server's word for TLS out of its greeting."""
    heard = bytearray()

    async def greet(reader, writer):
        info = {"server_id": "X", "version": "2.15.0", "max_payload": 1024, "auth_required": True}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        heard.extend(await reader.read(4096))
        writer.close()

    seed = tmp_path / "agent.nk"
    locked.make_seed(seed)
    thief = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = thief.sockets[0].getsockname()[1]
    wanted = {"tls_ca": papers.ca} if scheme == "nats" else {}
    url = f"{scheme}://ada:{SECRET}@127.0.0.1:{port}"
    said = await refused(url, credentials.Untrusted, nkey_seed=str(seed), **wanted)
    assert "TLS" in said
    thief.close()
    await thief.wait_closed()
    assert not heard


@pytest.mark.parametrize("name", ["nkey_seed", "credentials", "tls_key"])
async def test_a_secret_that_every_user_can_read_is_refused(name, tmp_path, papers):
    path = tmp_path / "secret"
    locked.make_seed(path, mode=0o644)
    more = {"tls_cert": papers.client[0], "tls_ca": papers.ca} if name == "tls_key" else {}
    said = await refused("nats://127.0.0.1:9", credentials.FileExposed, **{name: str(path)}, **more)
    assert f"chmod 600 {path}" in said
    assert path.read_text() not in said


async def test_a_secret_that_a_group_shares_is_taken(tmp_path):
    path = tmp_path / "agent.nk"
    known = locked.make_seed(path, mode=0o640)
    text = f"authorization {{ users: [ {{ nkey: {known} }} ] }}"
    async with (
        locked.serving(tmp_path / "nats", text) as url,
        connected(url, nkey_seed=str(path)),
    ):
        pass


@pytest.mark.parametrize("name", ["nkey_seed", "credentials", "tls_cert", "tls_ca"])
@pytest.mark.parametrize("text", [None, "SUnothing-of-the-kind", ""])
async def test_a_file_that_is_no_key_is_named_and_its_text_is_not(name, text, tmp_path):
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
    said = await refused("nats://127.0.0.1:9", credentials.FileUnusable, **{name: str(path)})
    assert str(path) in said
    assert not text or text not in said


async def test_the_embedded_server_lets_nobody_in_without_the_token_of_its_folder(tmp_path):
    async with server.EmbeddedServer(tmp_path / "nats") as running:
        assert running.url.count("@127.0.0.1:") == 1
        async with connected(running.url):
            pass
        bare = credentials.plain(running.url)
        await refused(bare, credentials.Refused)
        await refused(bare.replace("//", "//guess@"), credentials.Refused)
        token = running.url.partition("//")[2].partition("@")[0]
        for file in (tmp_path / "nats").iterdir():
            if file.is_file() and token in file.read_text(errors="replace"):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert stat.S_IMODE((tmp_path / "nats").stat().st_mode) == 0o700


async def test_the_embedded_server_keeps_its_token_so_that_clients_find_back(tmp_path):
    async with server.EmbeddedServer(tmp_path / "nats") as first:
        port = int(first.url.rsplit(":", 1)[1])
        client = await connection.connect(first.url, config.Nats(), "test")
    async with server.EmbeddedServer(tmp_path / "nats", port) as second:
        assert second.url == first.url
        async with asyncio.timeout(20):
            while not client.is_connected:  # noqa: ASYNC110 - the library announces it to nobody here
                await asyncio.sleep(0.02)
        await client.flush()
        await client.close()


def test_the_note_of_a_running_agent_is_its_user_s_alone(tmp_path):
    old = os.umask(0)
    try:
        with address.noted(tmp_path, address.Address("nats://secret@127.0.0.1:1", os.getpid())):
            path = tmp_path / address.FILE
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert address.read(tmp_path).nats_url == "nats://secret@127.0.0.1:1"
    finally:
        os.umask(old)
    assert not list(tmp_path.iterdir())


async def test_a_server_that_is_away_is_waited_for(tmp_path):
    async with server.EmbeddedServer(tmp_path / "nats") as first:
        port = int(first.url.rsplit(":", 1)[1])
    connecting = asyncio.create_task(connection.connect(first.url, config.Nats(), "test"))
    async with server.EmbeddedServer(tmp_path / "nats", port):
        client = await asyncio.wait_for(connecting, 20)
        await client.close()


async def test_a_message_that_is_not_permitted_is_said_at_once(tmp_path):
    text = 'authorization { users: [ { user: a, password: b, permissions: { publish: "x" } } ] }'
    async with locked.serving(tmp_path / "nats", text) as url:
        client = await credentials.connect(url.replace("//", "//a:b@"))
        with pytest.raises(credentials.NotPermitted):
            await asyncio.wait_for(credentials.ask(client, "Not.Mine", b"", timeout=60), 10)
        with pytest.raises(nats.errors.NoRespondersError):
            await credentials.ask(client, "x", b"", timeout=5)
        await client.close()
