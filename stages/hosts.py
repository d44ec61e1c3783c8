"""Owns which hosts a stage may reach: names are resolved first, and every answer is judged."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib import parse

from stages import kit

if TYPE_CHECKING:
    import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str], list[str]]
"""Looks a name up: gives its addresses, or raises OSError."""

TIMEOUT_S = 30.0
MOST_REDIRECTS = 5
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
    )
)
"""Where clouds tell a machine its own credentials; all but the first are not link-local."""
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata.goog", "instance-data"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")


class HostRefused(kit.NotAllowed):
    """The configuration does not let a stage reach this host."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"the host {host!r} may not be reached: {reason}",
            hint="the agent's setting access.allowed_hosts names the hosts that may be",
            path="$.uri",
        )
        self.host = host


class BadUri(kit.DataFault):
    """A URI can't be understood."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"the URI {bare(uri)!r} can't be understood: {reason}", path="$.uri")


class HostUnknown(kit.Transient):
    """A host's name has no address at the moment."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"the host {host!r} can't be found: {reason}", path="$.uri")
        self.host = host


def split(uri: str) -> parse.SplitResult:
    """Take a URI apart, or raise BadUri."""
    try:
        parts = parse.urlsplit(uri)
        _ = parts.port  # read only now, and refused if it is none
    except ValueError as error:
        raise BadUri(uri, str(error)) from error
    return parts


def bare(uri: str) -> str:
    """Write a URI that can't be taken apart without what may be a password or a key."""
    return uri.partition("?")[0].rpartition("@")[2][:200]


def look_up(host: str) -> list[str]:
    """Ask the system for a name's addresses; numbers of any notation are names to it."""
    answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(answer[4][0]).partition("%")[0] for answer in answers]


def is_listed(host: str, services: kit.Services) -> bool:
    """Tell whether the configuration names a host."""
    return _plain(host) in {_plain(name) for name in services.allowed_hosts}


def check(host: str, services: kit.Services, resolve: Resolve = look_up) -> list[str]:
    """Give the host's addresses; raise HostRefused if one of them is out of bounds, HostUnknown.

    Connect to what this gives and not to the name: a second look-up may answer otherwise.
    """
    listed = is_listed(host, services)
    if services.allowed_hosts and not listed:
        raise HostRefused(host, "it is not among the allowed hosts")
    if _plain(host) in _METADATA_NAMES:
        raise HostRefused(host, "it serves a machine's metadata")
    addresses = _resolved(host, resolve)
    for address in addresses:
        if reason := _objection(_unwrapped(address), listed=listed):
            raise HostRefused(host, reason)
    return [str(address) for address in addresses]


def _plain(host: str) -> str:
    """Write a host without what makes no other of it: case, the final dot, brackets."""
    return host.lower().strip("[]").rstrip(".")


def _resolved(host: str, resolve: Resolve) -> list[Address]:
    try:
        found = [ipaddress.ip_address(text) for text in dict.fromkeys(resolve(host))]
    except (OSError, ValueError) as error:  # a name that can't be one is a UnicodeError
        raise HostUnknown(host, str(error)) from error
    if not found:
        raise HostUnknown(host, "it has no address")
    return found


def _unwrapped(address: Address) -> Address:
    """Give the IPv4 address that an IPv6 one stands for, where it stands for one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64 or address in _NAT64_LOCAL:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo:
            return address.teredo[1]
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _objection(address: Address, *, listed: bool) -> str | None:
    if address in _METADATA or address.is_link_local:
        return "its address is link-local or serves a machine's metadata"
    if address.is_multicast or address.is_unspecified or _is_reserved(address):
        return "its address is not a host's"
    if not listed and not address.is_global:
        return "its address is private"
    return None


def _is_reserved(address: Address) -> bool:
    return address.is_reserved and not address.is_loopback


def check_url(url: str, services: kit.Services, resolve: Resolve = look_up) -> list[str]:
    """Give the addresses of a URL's host; raise HostRefused, HostUnknown, SchemeRefused, BadUri."""
    parts = split(url)
    if not parts.hostname:
        raise BadUri(url, "it names no host")
    if parts.scheme not in services.allowed_schemes:
        raise SchemeRefused(parts.scheme, services)
    return check(parts.hostname, services, resolve)


class SchemeRefused(kit.NotAllowed):
    """The configuration does not allow URIs of this scheme."""

    def __init__(self, scheme: str, services: kit.Services) -> None:
        super().__init__(
            f"URIs may not start with {scheme}:",
            hint=f"allowed are {', '.join(services.allowed_schemes)}",
            path="$.uri",
        )
        self.scheme = scheme


def client(services: kit.Services, resolve: Resolve = look_up, **settings: object) -> httpx.Client:
    """Make an HTTP client that judges every request and redirect, and connects to what it judged.

    It takes no proxy from the environment: behind one, the answers of DNS would mean nothing.
    """
    import httpx

    trusted = httpx.create_ssl_context()

    class Judging(httpx.BaseTransport):
        def __init__(self) -> None:
            self._lanes: dict[str, httpx.HTTPTransport] = {}

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            *first, last = check_url(str(request.url), services, resolve)
            lane = self._lane(request.url.host)
            for address in first:
                try:
                    return lane.handle_request(_pinned(request, address))
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    continue
            return lane.handle_request(_pinned(request, last))

        def _lane(self, host: str) -> httpx.HTTPTransport:
            """Keep the connections of each host apart: two may share an address."""
            if host not in self._lanes:
                self._lanes[host] = httpx.HTTPTransport(verify=trusted)
            return self._lanes[host]

        def close(self) -> None:
            for lane in self._lanes.values():
                lane.close()

    defaults: dict[str, object] = {
        "timeout": TIMEOUT_S,
        "follow_redirects": True,
        "max_redirects": MOST_REDIRECTS,
    }
    options: dict[str, object] = {**defaults, **settings}
    return httpx.Client(transport=Judging(), trust_env=False, **options)  # type: ignore[arg-type]


def _pinned(request: httpx.Request, address: str) -> httpx.Request:
    """Aim a request at an address; the host's name stays in its header and its certificate."""
    import httpx

    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )
