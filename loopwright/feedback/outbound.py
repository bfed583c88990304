"""Where the server may send requests that users asked for: to public hosts, at the very address that was checked.

A user's URL would else reach what only the server can: its own ports, the network it stands in, a cloud's metadata.
The name is resolved once, all its addresses must be public, and the connection goes to one of them; so a name that
resolves to another address a moment later (DNS rebinding) changes nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

from loopwright.errors import ConfigError

LONGEST_URL = 2048  # characters
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  # (host, port) -> its IP addresses


class Target(NamedTuple):
    """A URL that may be asked, as soon as its host is resolved."""

    scheme: str
    host: str  # a name, or an IP address without brackets
    port: int
    path: str  # with the query

    @property
    def netloc(self) -> str:
        """The host as the header of this name gives it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def checked_url(url: str, *, allow_loopback: bool = False) -> Target:
    """What a user's URL names, before anything is asked of anybody.

    Args:
        allow_loopback: also http; `addresses_of` then takes nothing but loopback addresses for it.

    Raises:
        ConfigError: it is no https URL, holds a user name, or is written in a way that others might read otherwise.
    """
    if len(url) > LONGEST_URL:
        raise ConfigError(f"the URL has {len(url):,} characters, more than {LONGEST_URL:,}; shorten it")
    if not _PLAIN.fullmatch(url):
        raise ConfigError("the URL holds white space, a backslash or letters beyond ASCII; write it as xn-- and %XX")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError("the URL's host or port cannot be read; write https://host/path") from error
    schemes = ("http", "https") if allow_loopback else ("https",)
    if parts.scheme not in schemes or not host:
        raise ConfigError("the URL does not begin with https:// and the name of a host; write https://host/path")
    if "@" in parts.netloc:
        raise ConfigError("the URL holds a user name or password; leave it out, requests are signed")
    if parts.fragment:
        raise ConfigError("the URL has a part after #, which is never sent; leave it out")
    if port == 0:
        raise ConfigError("the URL names port 0; leave it out, or give the one that is meant")
    query = f"?{parts.query}" if parts.query else ""
    return Target(parts.scheme, host.rstrip("."), port or _PORTS[parts.scheme], (parts.path or "/") + query)


async def addresses_of(target: Target, resolve: Resolve, *, allow_loopback: bool = False) -> list[str]:
    """The addresses to connect to, in the resolver's order.

    Raises:
        ConfigError: the name has an address that is not public (or loopback, where that is allowed).
        OSError: the name cannot be resolved.
    """
    found = [ip_address(address.partition("%")[0]) for address in await resolve(target.host, target.port)]
    if not found:
        raise OSError("the name has no address")
    for address in found:
        if allow_loopback and address.is_loopback:
            continue
        if target.scheme == "http" or not is_public(address):  # which address is nobody's business
            raise ConfigError("the URL's host has an address that is not public; give a host on the internet")
    return [str(address) for address in found]


async def resolve(host: str, port: int) -> list[str]:
    """The system's resolver. It also reads 0x7f.1 or 2130706433 as 127.0.0.1, so what it says is what is checked."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is a single host's on the internet (IANA's registries of special-purpose addresses).

    IPv6 addresses that lead to an IPv4 one (mapped, NAT64, 6to4, Teredo) are not: where they lead is up to others.
    """
    if any(address in network for network in _SPECIAL if network.version == address.version):
        return False
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


_PORTS = {"http": 80, "https": 443}
_PLAIN = re.compile(r"[!-\[\]-~]+")
_GLOBAL_UNICAST = ip_network("2000::/3")  # of IPv6, all that is given to hosts
_SPECIAL = [
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # Azure's own services, at an address that looks public
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]
