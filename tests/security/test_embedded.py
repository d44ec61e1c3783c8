"""An agent with a bus of its own: what lets in is with its user alone."""

from __future__ import annotations

import contextlib

import psutil
import pytest

from agent import address, config, service
from agent.bus import server
from protocol import client
from tests.service import helpers
from tests.service.helpers import stage

pytestmark = [*helpers.MARKS, pytest.mark.slow]


def commands() -> list[str]:
    """Give the command lines of this process and all below it, as anybody can read them."""
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(" ".join(process.cmdline()))
    return found


async def test_the_token_is_in_no_log_and_no_command_line(ray_cluster, tmp_path, capsys):  # noqa: ARG001 - the connection is the process's
    settings = helpers.settings(tmp_path / "data", specialist=config.Specialist())
    async with service.running(settings, modules=helpers.MODULES) as agent:
        token = (settings.data_path / "nats" / server.TOKEN_FILE).read_text()
        assert token in agent.nats_url
        assert address.read(settings.data_path).nats_url == agent.nats_url
        log = settings.data_path / "specialist.log"
        await helpers.wait_until(lambda: log.exists() and "specialist.ready" in log.read_text())
        async with client.connect(agent.nats_url) as ask:
            status, _ = await helpers.done(ask, stage("one", "sample.add"))
        assert status.state == "succeeded"
        seen = commands()
        assert any("agent.specialist" in line for line in seen)
        assert not any(token in line for line in seen)
        assert token not in log.read_text()
        assert token not in (settings.data_path / "nats" / "nats.log").read_text()
    assert token not in "".join(capsys.readouterr())
