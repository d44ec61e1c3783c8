"""Owns the look at which of this machine's Ray processes listen to other machines."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator

import psutil

from agent.audit import findings

_NAMES = ("gcs_server", "raylet", "ray::", "ray-client", "dashboard")
_MODE = "RAY_AUTH_MODE"


def exposed() -> Iterator[findings.Finding]:
    """Find the Ray processes whose ports other machines reach."""
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        if _is_ray(process):
            with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
                yield from _of(process)


def _is_ray(process: psutil.Process) -> bool:
    line = process.info["cmdline"] or []
    title = " ".join([process.info["name"] or "", *line[:1]])
    return any(name in title for name in _NAMES) or any("/ray/dashboard/" in word for word in line)


def _of(process: psutil.Process) -> Iterator[findings.Finding]:
    found = [
        one.laddr
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN and not _is_here(one.laddr.ip)
    ]
    if not found:
        return
    guarded = process.environ().get(_MODE) == "token"
    where = f"{process.info['name']} (pid {process.pid}), port {found[0].port} at {found[0].ip}"
    why = "other machines reach this port of Ray's" + (
        ", and need its token" if guarded else ", which asks for no token: they can run anything"
    )
    mend = "have Ray listen at 127.0.0.1 (--node-ip-address), or close the port to others"
    mend += "" if guarded else f"; start it with {_MODE}=token"
    yield findings.Finding("ray/exposed-port", "medium" if guarded else "high", where, why, mend)


def _is_here(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    inner = getattr(address, "ipv4_mapped", None)
    return (inner or address).is_loopback
